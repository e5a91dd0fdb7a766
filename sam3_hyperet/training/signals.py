"""Signals that end a run: finish the step, save the state, then exit or be requeued."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

import torch
from lightning_fabric import Fabric
from submitit.core.utils import UncompletedJobError

from sam3_hyperet.training.gathering import reduced
from sam3_hyperet.training.requeue import REQUEUE, is_preempted

_BY_PRIORITY = (signal.SIGINT, signal.SIGTERM, REQUEUE)  # where several came, the last of them decides


class Interrupted(Exception):
    """Training was stopped by a signal; the state of the last step, if there was one, is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"interrupted at step {step}")
        self.step = step


class Preemption:
    """Handlers of Ctrl-C, SIGTERM and submitit's requeue signal that let training finish its step.

    Use `with Preemption(...) as preemption` around training that calls `requested` after every step, and raises
    Interrupted once the state is saved. The process then leaves the block by SystemExit: after Ctrl-C and SIGTERM with
    the exit status 128 + signal; after the requeue signal, and a SIGTERM by which Slurm preempts the job, through the
    handler that was there before, which requeues the job. A second Ctrl-C interrupts at once. Outside submitit's jobs
    the requeue signal keeps its meaning.

    All processes of `fabric`, which is launched, leave together, as soon as one of them has got a signal. The first one
    prints a line by `show`, with the `way_on`: what the user may do to go on.
    """

    def __init__(self, fabric: Fabric, show: Callable[[str], None], way_on: str) -> None:
        self._fabric, self._show, self._way_on = fabric, show, way_on
        self._noted = self._agreed = 0  # positions in _BY_PRIORITY, from 1
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Preemption:
        for number in _BY_PRIORITY:
            if number != REQUEUE or callable(signal.getsignal(REQUEUE)):
                self._before[number] = signal.signal(number, self._note)
        return self

    def noted(self) -> bool:
        """Whether this process has got a signal."""
        return self._noted > 0

    def requested(self) -> bool:
        """Whether any process has got a signal; all processes must call it at the same step."""
        self._agreed = self._most(self._noted)
        return self._agreed > 0

    def _most(self, noted: int) -> int:
        """The largest number of all processes."""
        return int(reduced(self._fabric, torch.tensor(float(noted)), "max"))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if isinstance(error, Interrupted):
            self._leave(_BY_PRIORITY[self._agreed - 1], error.step)
        elif error is None and self._noted:  # too late for training, not for what comes next
            signal.raise_signal(_BY_PRIORITY[self._noted - 1])

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = max(self._noted, _place(signal.Signals(number)))
        if number == signal.SIGINT:
            signal.signal(number, self._before[signal.SIGINT])  # type: ignore[arg-type]

    def _leave(self, number: signal.Signals, step: int) -> None:
        self._fabric.barrier()  # the first process has saved the state: a process that ends may take the others along
        if number != signal.SIGINT:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # this process is already ending, and Slurm signals twice
        if number == signal.SIGTERM and REQUEUE in self._before:
            asks = self._fabric.is_global_zero and is_preempted()
            number = REQUEUE if self._most(int(asks)) else number
        then = "the job asks to be requeued" if number == REQUEUE else self._way_on
        if self._fabric.is_global_zero:
            where = f"after step {step}; the state is saved" if step else "before the first step"
            self._show(f"stopped by {number.name} {where}; {then}")
        if number != REQUEUE:
            raise SystemExit(128 + number)
        try:
            signal.raise_signal(number)  # submitit's handler ends the first process and lets the others go on
        except UncompletedJobError as refusal:
            self._show(f"{str(refusal).rstrip('.')}; {self._way_on}")
            raise SystemExit(128 + number) from None
        raise SystemExit(0)


def _place(number: signal.Signals) -> int:
    return 1 + _BY_PRIORITY.index(number)
