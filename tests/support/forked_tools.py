"""Scripts in processes of their own, which a server forks: it has imported everything once, which takes seconds.

What only a fresh interpreter shows, such as warnings while modules are imported, is left to the tests that start one.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import NoReturn

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TRAIN, EVALUATE = (REPOSITORY / "tools" / f"{name}.py" for name in ("train", "evaluate"))
_MODULES = [
    "sam3_hyperet.cli.train",
    "sam3_hyperet.cli.evaluate",
    "sam3_hyperet.cli.predict",
    "matplotlib.pyplot",
    "mortal_runs",
    __name__,
    "warmed",
]
"""What the server imports; `warmed` comes last, for it freezes what is there."""


OF_CALLER = "PYTHONPATH_OF_CALLER"
"""The variable that has the PYTHONPATH which `warmed` puts back."""


def server() -> ForkServerContext:
    """The server of this process; every test that forks asks here, for what it imports is settled when it starts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_MODULES)
    with pytest.MonkeyPatch.context() as patch:  # sys.path is not passed on; what cannot be imported is passed over
        before = os.environ.get("PYTHONPATH", "")
        patch.setenv(OF_CALLER, before)
        folders = [str(Path(__file__).parent), str(REPOSITORY), before]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))
        forkserver.ensure_running()
    return context


class Forked:
    """A script with these arguments in a session of its own, on one thread; a warning is an error if it is `strict`.

    Its output goes to files in `logs`.
    """

    def __init__(self, script: Path, arguments: Sequence[object], logs: Path, strict: bool = True) -> None:
        logs.mkdir(exist_ok=True)
        self._logs = (logs / "stdout.txt", logs / "stderr.txt")
        command = [str(script), *map(str, arguments)]
        self._process: ForkServerProcess = server().Process(target=_run, args=(command, *self._logs, strict))
        self._process.start()
        self.pid: int = self._process.pid

    def running(self) -> bool:
        return self._process.is_alive()

    def wait(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Its exit status, and what it has printed."""
        self._process.join(seconds)
        if self._process.is_alive():
            os.killpg(self.pid, signal.SIGKILL)
            self._process.join()
        out, err = (log.read_text() for log in self._logs)
        return subprocess.CompletedProcess([], self._process.exitcode, out, err)


def run_forked(
    script: Path, arguments: Sequence[object], logs: Path, strict: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end. Where Lightning Fabric would start its command anew, its other process is forked."""
    return Forked(script, arguments, logs, strict).wait(300)


def _run(command: list[str], out: Path, err: Path, strict: bool) -> None:
    os.setsid()
    assert "warmed" in sys.modules  # the server says nothing of what it could not import
    for number, file in ((1, out), (2, err)):
        with file.open("w") as opened:
            os.dup2(opened.fileno(), number)
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    os.chdir(REPOSITORY)
    if strict:
        warnings.simplefilter("error")
    import torch
    from lightning_fabric.strategies.launchers import subprocess_script

    torch.set_num_threads(1)
    sys.argv = command
    if not any(argument.endswith("devices=2") for argument in command):
        sys.exit(_status(command[0]))
    second = _Waiting(command[0])
    subprocess_script.subprocess = _Subprocess(second)
    status = _status(command[0])
    second.dismiss()
    sys.exit(status)


def _status(script: str) -> int:
    """Exit status of a script that runs here. Nothing of it is left then, so that its loaders have ended."""
    return status_of(lambda: runpy.run_path(script, run_name="__main__"))


def status_of(program: Callable[[], object]) -> int:
    """Exit status of a program that runs here."""
    try:
        program()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def end_with(run: Callable[[], int]) -> NoReturn:
    """End a forked process with a status, and nothing of its parent's."""
    status = 1
    try:
        status = run()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class _Waiting:
    """A process forked before the script began, which begins it too once it is given an environment."""

    def __init__(self, script: str) -> None:
        read, self._write = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            os.close(read)
            return
        os.close(self._write)
        with os.fdopen(read, "rb") as pipe:
            given = pipe.read()
        if not given:
            os._exit(0)
        os.environ.clear()
        os.environ.update(pickle.loads(given))
        end_with(lambda: _status(script))

    def begin(self, environment: dict[str, str]) -> None:
        with os.fdopen(self._write, "wb") as pipe:
            pipe.write(pickle.dumps(environment))
        self._write = -1

    def dismiss(self) -> None:
        if self._write != -1:
            os.close(self._write)
            os.waitpid(self.pid, 0)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


class _Subprocess:
    """Instead of the module `subprocess`, where Fabric starts its other processes."""

    def __init__(self, second: _Waiting) -> None:
        self._second = second

    def Popen(self, command: Sequence[str], env: dict[str, str], cwd: str | None) -> _Waiting:
        assert (list(command[1:]), cwd) == (sys.argv, None)
        self._second.begin(env)
        return self._second
