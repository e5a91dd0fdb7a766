"""Runs in processes of their own, mostly of training, and the ways in which those are killed."""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from forked_tools import server

from sam3_hyperet.training.state import save_state

_WAIT_SECONDS = 120.0


class Killed(BaseException):
    """Takes the place of a signal, in this process."""


def killed_once_saved(main: Callable[[list[str]], object], command: list[str]) -> None:
    """Run a command that trains up to where its first state is saved."""

    def save_and_die(*arguments: Any, **options: Any) -> None:
        save_state(*arguments, **options)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sam3_hyperet.training.loop.save_state", save_and_die)
        with pytest.raises(Killed):
            main(command)


@dataclass(frozen=True)
class AtFileOperation:
    """The process kills itself where it is about to open, link, rename or remove something in `folder`, the n-th time
    from 1."""

    folder: Path
    n: int

    def arm(self) -> None:
        left = self.n

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in ("open", "os.link", "os.rename", "os.remove") and str(arguments[0]).startswith(
                str(self.folder)
            ):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)


@dataclass(frozen=True)
class WithinSave:
    """The process kills itself in the n-th save of the state, from 1, when `share` of its bytes are in the file."""

    n: int
    share: float

    def arm(self) -> None:
        save, saves = torch.save, 0

        def dying(state: object, written: Any) -> None:
            nonlocal saves
            saves += 1
            save(state, written)
            if saves == self.n:
                written.file.truncate(int(self.share * written.file.tell()))
                os.kill(os.getpid(), signal.SIGKILL)

        torch.save = dying


@dataclass(frozen=True)
class AfterSeconds:
    """Somebody else kills the process so long after its training began, or its whole process group."""

    seconds: float
    group: bool

    def arm(self) -> None:
        """It will know nothing of it."""


Death = AtFileOperation | WithinSave | AfterSeconds


class MortalRuns:
    """Starts runs of a tool into `folder`, each in a session of its own, on one thread."""

    def __init__(self, folder: Path, command: Sequence[str], tool: str = "train") -> None:
        self.folder, self._command, self._tool = folder, [*command, f"run_dir={folder}"], tool
        self._context = server()
        self._sessions: list[int] = []

    def finish(self) -> None:
        """Let a run come to its end."""
        process = self._start(None)
        process.join(_WAIT_SECONDS)
        assert process.exitcode == 0, self.said()

    def kill(self, death: Death) -> None:
        """Let a run begin, and die so."""
        before = _changed(self.folder / "metrics.jsonl")
        process = self._start(death)
        if isinstance(death, AfterSeconds):
            deadline = time.monotonic() + _WAIT_SECONDS
            while _changed(self.folder / "metrics.jsonl") == before and process.is_alive():
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.01)
            time.sleep(death.seconds)
            (os.killpg if death.group else os.kill)(process.pid, signal.SIGKILL)
        process.join(_WAIT_SECONDS)
        assert process.exitcode == -signal.SIGKILL, f"{death}: {self.said()}"

    def survivors(self, seconds: float) -> list[psutil.Process]:
        """Processes of all runs, such as loaders, that are still there after so long; they look for their parent every
        five seconds."""
        there = [process for process in psutil.process_iter() if _session(process) in self._sessions]
        return psutil.wait_procs(there, seconds)[1]

    def _start(self, death: Death | None) -> ForkServerProcess:
        process = self._context.Process(target=_run, args=(self._tool, self._command, self._output, death))
        process.start()
        self._sessions.append(process.pid)
        return process

    @property
    def _output(self) -> Path:
        return self.folder.with_suffix(".log")

    def said(self) -> str:
        """What the last run has printed."""
        return self._output.read_text()[-3000:]


def _run(tool: str, command: list[str], output: Path, death: Death | None) -> None:
    os.setsid()
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    main = pkgutil.resolve_name(f"sam3_hyperet.cli.{tool}:main")
    if death is not None:
        death.arm()
    main(command)


def _changed(file: Path) -> tuple[int, int] | None:
    """What tells two versions of a file apart."""
    if not file.is_file():
        return None
    status = file.stat()
    return status.st_ino, status.st_mtime_ns


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid) if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None
