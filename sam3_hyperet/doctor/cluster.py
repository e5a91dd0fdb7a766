"""What a Slurm job needs: the commands, its partition and time limit, a folder that every node sees."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from sam3_hyperet.doctor.findings import Examination, Finding, failed, ok, warning
from sam3_hyperet.launch.options import SlurmOptions

_COMMANDS = ("sbatch", "srun")
_LIST = ("sinfo", "--noheader", "--format=%P|%l|%a")
_SECONDS = 20
_OF_ONE_MACHINE = ("tmpfs", "ramfs", "devtmpfs")


def rows(examination: Examination, launcher: SlurmOptions, run_dir: Path) -> Iterator[Finding]:
    """The checks of every job."""
    yield from examination.check("slurm", slurm_rows)
    yield from examination.check("partition", lambda: partition_rows(launcher), "slurm")
    yield from examination.check("run_dir of a job", lambda: shared_folder_rows(run_dir))


def unseen(check: str, folder: Path) -> Finding:
    """The row of a data set that is not where the job is submitted."""
    remedy = "the right path, or launcher.doctor=false where only the job's nodes see it"
    return failed(check, f"{folder} is no folder on this machine", "the data set", remedy)


def slurm_rows() -> Iterator[Finding]:
    """Whether Slurm's commands are there."""
    if missing := [name for name in _COMMANDS if not shutil.which(name)]:
        where = "run this on a machine that submits jobs, or launcher=local"
        yield failed("slurm", f"{', '.join(missing)} not on the PATH", "Slurm's commands", where)
    else:
        yield ok("slurm", f"{shutil.which('sbatch')}")


def partition_rows(launcher: SlurmOptions, ask: Callable[[], str] | None = None) -> Iterator[Finding]:
    """Whether the partition exists, is up, and lets a job run for `launcher.timeout_min`.

    It is the cluster's default unless an option, or sbatch's own variable, names one.
    """
    try:
        text = (ask or _sinfo)()
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(str(getattr(error, "stderr", None) or error).split())
        yield warning(
            "partition", f"sinfo: {said}", "the list of partitions", "sinfo must work where jobs are submitted"
        )
        return
    listed = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    partitions = {name.rstrip("*"): (limit, state) for name, limit, state in listed}
    default = next((name.rstrip("*") for name, _, _ in listed if name.endswith("*")), None)
    name = launcher.partition or os.environ.get("SBATCH_PARTITION") or default
    known = ", ".join(sorted(partitions)) or "none"
    if name is None:
        yield warning("partition", "no default partition", "launcher.partition=…", f"one of {known}")
    elif any(one not in partitions for one in name.split(",")):
        yield failed(
            "partition", f"launcher.partition={name}", f"one of {known}", f"launcher.partition={default or '…'}"
        )
    else:
        one = name.split(",")[0]
        limit, state = partitions[one]
        most = _minutes(limit)
        if state != "up":
            yield warning("partition", f"{one} is {state}: the job waits until it is up", "up")
        elif most is not None and launcher.timeout_min > most:
            found = f"{one} lets a job run for {most} min"
            yield failed(
                "partition", found, f"launcher.timeout_min={launcher.timeout_min}", f"launcher.timeout_min={most}"
            )
        else:
            yield ok("partition", f"{one}, up, limit {limit}")


def shared_folder_rows(run_dir: Path, mounts: Path = Path("/proc/self/mounts")) -> Iterator[Finding]:
    """Whether the run's folder can be seen by the nodes of a job, as far as its file system tells."""
    folder = run_dir.absolute()
    kind = _file_system(folder, mounts)
    if kind in _OF_ONE_MACHINE or folder.is_relative_to("/tmp") or folder.is_relative_to("/var/tmp"):
        where = f"{folder} ({kind or 'unknown file system'}) is of this machine alone"
        yield warning("run_dir of a job", where, "a folder that every node sees", "run_dir=… on a shared file system")
    else:
        yield ok("run_dir of a job", f"{folder} ({kind or 'unknown file system'}); every node must see it")


def _sinfo() -> str:
    return subprocess.run(_LIST, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout


def _minutes(limit: str) -> int | None:
    """Minutes of Slurm's [days-]hours:minutes:seconds, or None for no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit.strip())
    if not match:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes


def _file_system(folder: Path, mounts: Path) -> str:
    """The kind of the file system that a folder is, or will be, on; "" where the system does not tell."""
    if not mounts.is_file():
        return ""
    kinds = {words[1]: words[2] for line in mounts.read_text().splitlines() if len(words := line.split()) > 2}
    return next((kinds[str(one)] for one in (folder, *folder.parents) if str(one) in kinds), "")
