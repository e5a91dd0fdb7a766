"""Files: read safely, written whole or not at all; sole use of a folder, and a list of what was written in it."""

import codecs
import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sam3_hyperet.errors import ConfigError, DataError, StorageError, UserError

LOCK = ".sam3_hyperet.lock"
MANIFEST = ".sam3_hyperet.json"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_QUIET_SECONDS = 600  # a folder in which nothing changed for so long is no longer in use by another machine
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What loading a YAML text raises: values that its tags or types cannot have are not YAMLErrors."""
_MAX_YAML, _MAX_YAML_NODES, _MAX_YAML_DEPTH = 2_000_000, 100_000, 50
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe, which cannot be read twice", stat.S_IFSOCK: "a socket"}
_held: set[Path] = set()


def regular_file(path: str | Path, error: type[UserError] = DataError) -> Path:
    """`path`, if it is a regular file: opening a pipe or a device may never end. Raises `error` if it is not."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as fault:  # ValueError: a name with a null character
        absent = isinstance(fault, FileNotFoundError | NotADirectoryError | ValueError)
        found = "no such file" if absent else f"cannot be read ({fault.strerror})"  # type: ignore[union-attr]
        raise error(f"{path}: {found}") from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise error(f"{path}: cannot be read (it is {kind}, expected a file)")
    return Path(path)


def foreign_content(path: Path) -> str:
    """What a file is instead of data by its first bytes: empty, a web page, a Git LFS pointer; "" for others."""
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, such as a log-in or error page; download the file itself, logged in"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file that it stands for by `git lfs pull`"
    return "" if start else "it is empty; download or copy it again"


def read_text(path: str | Path, error: type[UserError] = DataError) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises `error` naming it."""
    path = regular_file(path, error)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        with path.open("rb") as file:
            is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        found = "it is UTF-16" if is_utf16 else f"byte {fault.start} is not UTF-8"
        raise error(f"{path}: {found}; expected a text in UTF-8, so save it as that") from None
    except OSError as fault:
        raise error(f"{path}: cannot be read ({fault.strerror or fault})") from None


def read_json(path: str | Path) -> Any:
    """Content of a JSON file of data. Raises DataError naming it."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({foreign_content(Path(path)) or error})") from None


def parse_json(text: str) -> Any:
    """Content of a JSON text. Raises ValueError, in one line, also for deep brackets and a key that occurs twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    except ValueError as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_yaml_text(path: str | Path, error: type[UserError] = ConfigError) -> str:
    """The text of a YAML file that is safe to load: its aliases do not make it grow beyond all bounds.

    Raises `error` naming the file.
    """
    text = read_text(path, error)
    if len(text) > _MAX_YAML:
        raise error(f"{path}: it has {len(text):,} characters, expected a YAML file of at most {_MAX_YAML:,}")
    try:
        nodes = _yaml_nodes(text)
    except (yaml.YAMLError, ValueError) as fault:
        raise error(f"{path}: not readable as YAML ({' '.join(str(fault).split())})") from None
    if nodes > _MAX_YAML_NODES:
        raise error(f"{path}: its aliases (*name) stand for more than {_MAX_YAML_NODES:,} values; write them out")
    return text


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
    """Remove what killed processes left half written in a folder; no process may be writing there."""
    for file in folder.glob(".*.tmp"):
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
            with replacing(self.folder / MANIFEST) as temporary:
                temporary.write_text(json.dumps(sorted(ours.union(names)), indent=1) + "\n", encoding="utf-8")

    def remove(self, *names: str) -> None:
        """Remove those of the names that are on the list, folders with all that is in them."""
        for name in self.names.intersection(names):
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r:.60} occurs twice")
    return found


def _yaml_nodes(text: str) -> int:
    """How many values a YAML text stands for once its aliases are replaced; more than the most, or their number."""
    anchors: dict[str, int] = {}
    sizes: list[int] = [0]  # of the collections that are open, from the outermost
    names: list[str | None] = []
    expanded = 1  # at most so often does a value occur once interpolations are replaced
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(0)
            names.append(event.anchor)
            if len(sizes) > _MAX_YAML_DEPTH:
                raise ValueError(f"it is nested deeper than {_MAX_YAML_DEPTH} levels")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sizes.pop() + 1, names.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise ValueError(f"the alias *{event.anchor} stands for nothing before it")
            size, anchor = anchors[event.anchor], None
        elif isinstance(event, yaml.ScalarEvent):
            size, anchor = 1, event.anchor
            if (expanded := expanded * max(1, event.value.count("${"))) > _MAX_YAML_NODES:
                raise ValueError("its interpolations (${…}) may multiply without bound; write their values out")
        else:
            continue
        if anchor:
            anchors[anchor] = size
        sizes[-1] += size
        if sizes[-1] > _MAX_YAML_NODES:
            break
    return sizes[-1]


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
    newest = max(path.stat().st_mtime for path in [folder, *folder.glob("*")] if path.exists() and path.name != LOCK)
    return time.time() - newest < _QUIET_SECONDS


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
