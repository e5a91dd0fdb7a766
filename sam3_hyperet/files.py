"""Files written whole or not at all; sole use of a folder, and a list of what was written in it."""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sam3_hyperet.errors import ConfigError, StorageError, UserError
from sam3_hyperet.reading import parse_json, read_text

LOCK = ".sam3_hyperet.lock"
MANIFEST = ".sam3_hyperet.json"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_QUIET_SECONDS = 600  # a folder in which nothing changed for so long is no longer in use by another machine
_TEMPORARY = re.compile(r"\..+-\d+-[0-9a-f]{8}\.tmp", re.DOTALL)
"""Names of `replacing`: a host, a process and a random number come last."""
_held: set[Path] = set()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Temporary name beside `path` to write to, renamed at the end: readers never see a partial file.

    The name is unique among processes, machines and containers that share the folder.
    Raises StorageError: the file cannot be written, such as on a full disk; the one that was there before is kept.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = f"{socket.gethostname()[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        temporary = path.with_name(f".{path.name[:40]}.{writer}.tmp")
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON, whole or not at all; NaN is refused (ValueError). Parent folders are made."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Temporary folder beside `folder` to write to, renamed at the end: `folder` is there whole or not at all.

    Raises StorageError as `replacing`.
    """
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as beside:
            whole = Path(beside) / folder.name
            whole.mkdir()
            yield whole
            whole.rename(folder)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a failed write to `path` into a StorageError that names it.

    torch and safetensors hide the system's error in one of their own.
    """
    try:
        yield
    except Exception as error:
        if (fault := _fault(error, path.parent)) is None:
            raise
        raise StorageError(f"{path}: {fault}; expected a place with free space that can be written to") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what `replacing` left half written in a folder in killed processes; no process may be writing there."""
    for file in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(file.name):  # another's temporary files are left alone
            file.unlink()


@contextmanager
def sole_use(folder: Path) -> Iterator[str]:
    """Keep other processes from using a folder, which is made if it is missing.

    The lock is the system's, which ends with the process. Where the file system has none, or has none between machines,
    the lock file's content decides: the holder is gone if its process is, if Slurm has requeued its job, or if it ran
    on another machine and nothing has changed in the folder for ten minutes. Nested use in one process is allowed.

    Yields what was taken over from, in one line, or "". Raises ConfigError: another process uses the folder.
    """
    key = folder.resolve()
    if key in _held:
        yield ""
        return
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    with storage_errors(file):
        descriptor, notice = _lock(file)
    _held.add(key)
    try:
        yield notice
    finally:
        _held.discard(key)
        file.unlink(missing_ok=True)
        os.close(descriptor)
        if is_new:
            with contextlib.suppress(OSError):  # something was written
                folder.rmdir()


class Manifest:
    """Names in a folder, of files and folders, that this package wrote: nothing else is ever replaced or removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def names(self) -> frozenset[str]:
        """All names on the list."""
        file = self.folder / MANIFEST
        if not os.path.lexists(file):
            return frozenset()
        try:
            found = parse_json(read_text(file))
        except ValueError as error:
            found = str(error)
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise ConfigError(f"{file}: damaged ({found!s:.200}); expected a list of names; use another folder")
        return frozenset(found)

    def check(self, *names: str) -> None:
        """Raise a ConfigError if one of the names exists and is not on the list."""
        ours = self.names
        for name in names:
            if name not in ours and os.path.lexists(self.folder / name):
                found = f"{self.folder / name} is there and was not written by an earlier run; it is left alone"
                raise ConfigError(f"{found}; expected another run_dir, or to move it away")

    def claim(self, *names: str) -> None:
        """Add names that are about to be written. Raises a ConfigError as `check` does."""
        self.check(*names)
        ours = self.names
        if not ours.issuperset(names):
            write_json(self.folder / MANIFEST, sorted(ours.union(names)))

    def remove(self, *names: str) -> None:
        """Remove those of the names that are on the list, folders with all that is in them."""
        for name in self.names.intersection(names):
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _fault(error: BaseException | None, folder: Path) -> str | None:
    """The system's words for a failed write; None if the error is no failed write to this folder."""
    while error is not None:
        if isinstance(error, UserError):
            return None
        if isinstance(error, OSError) and error.errno is not None:
            is_here = error.filename is None or Path(os.fsdecode(error.filename)).parent == folder
            return os.strerror(error.errno) if is_here else None
        if code := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
            return os.strerror(int(code[1]))
        if isinstance(error, OSError) and "requested and" in str(error):  # numpy
            return f"only a part could be written ({error})"
        error = error.__cause__ or error.__context__
    return None


def _lock(file: Path) -> tuple[int, str]:
    """Descriptor of the locked file, and whom it was taken over from."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
            stack.callback(os.close, descriptor)
            has_locks = _try_lock(descriptor)
            if os.fstat(descriptor).st_ino != file.stat().st_ino:  # its holder has just removed it
                continue
            holder = _holder(descriptor)
            named = "another process"
            if holder:
                named = f"process {holder['process']} on {holder['host']}, there since {holder['since']}"
            if has_locks is None or _may_run(holder, has_locks, file.parent):
                remedy = "" if has_locks is None else f"; if that one has ended, remove {file}"
                where = f"run_dir={file.parent} is in use by {named}"
                raise ConfigError(f"{where}; expected another run_dir, or to wait{remedy}")
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_this_process()).encode(), 0)
            stack.pop_all()
            return descriptor, f"{file.parent}: taken over from {named}, which has ended" if holder else ""


def _try_lock(descriptor: int) -> bool | None:
    """True if locked, None if another process has the lock, False if the file system has no locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not inherited by forked workers, unlike flock
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return None
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _may_run(holder: dict[str, str], has_locks: bool, folder: Path) -> bool:
    mine = _this_process()
    if not holder or (holder["job"] and holder["job"] == mine["job"] and holder["restarts"] != mine["restarts"]):
        return False
    if holder["kernel"] == mine["kernel"]:
        if has_locks:
            return False
        if holder["host"] == mine["host"]:
            return Path(f"/proc/{holder['process']}").exists()
    # a folder changes with each record that is renamed in it, however deep; logs grow without that
    inside = itertools.chain(folder.glob("**/"), folder.glob("*"), folder.glob("*/*"))
    newest = max(path.stat().st_mtime for path in inside if path.exists() and path.name != LOCK)
    os.utime(folder / LOCK)  # by the clock of the file system, which that of this machine may differ from
    return (folder / LOCK).stat().st_mtime - newest < _QUIET_SECONDS


def _this_process() -> dict[str, str]:
    boot = Path("/proc/sys/kernel/random/boot_id")  # the same in all containers of a machine
    return {
        "process": str(os.getpid()),
        "host": socket.gethostname(),
        "kernel": boot.read_text().strip() if boot.exists() else socket.gethostname(),
        "job": os.environ.get("SLURM_JOB_ID", ""),
        "restarts": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _holder(descriptor: int) -> dict[str, str]:
    try:
        found = json.loads(os.pread(descriptor, 10_000, 0))
    except ValueError:  # its process ended, or has not come further, before it could write
        return {}
    return found if isinstance(found, dict) and found.keys() == _this_process().keys() else {}
