"""Signals between two steps: who decides, who leaves how, and what the handlers are afterwards; the state of ranks."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest
import torch
from submitit.core.utils import UncompletedJobError

from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.training.optimizer import build_optimizer
from sam3_hyperet.training.options import OptimizerOptions
from sam3_hyperet.training.requeue import REQUEUE, is_preempted
from sam3_hyperet.training.signals import Interrupted, Preemption
from sam3_hyperet.training.state import random_generators, read_state, restore_state, save_state


class Process:
    """What Preemption needs of Fabric; `others` is what the other process has noted."""

    device = torch.device("cpu")

    def __init__(self, rank: int = 0, world: int = 1, others: float = 0) -> None:
        self.world_size, self.is_global_zero, self.others = world, rank == 0, others
        self.waited = 0

    def all_reduce(self, value: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "max"
        return torch.maximum(value, torch.tensor(float(self.others)))

    def barrier(self) -> None:
        self.waited += 1


@pytest.fixture(autouse=True)
def handlers():
    """Handlers as in a job of submitit, and as before afterwards; returns the requeue signals that came through."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, REQUEUE)}
    signal.signal(REQUEUE, lambda number, frame: came.append(number))
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


def leave(process: Process, *numbers: int, step: int = 7) -> tuple[int, list[str]]:
    """Exit status and lines of a run that is interrupted by signals."""
    said: list[str] = []
    with pytest.raises(SystemExit) as exit_, Preemption(process, said.append, "start it again") as preemption:  # noqa: PT012
        assert not process.others
        assert not preemption.noted()
        assert not preemption.requested()
        for number in numbers:
            signal.raise_signal(number)
        assert preemption.noted()
        assert preemption.requested()
        raise Interrupted(step)
    return exit_.value.code, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_leaves_with_the_signal_s_status(number):
    process = Process()
    assert leave(process, number) == (
        128 + number,
        [f"stopped by {number.name} after step 7; the state is saved; start it again"],
    )
    assert process.waited == 1


def test_a_run_that_leaves_before_its_first_step_has_no_state():
    """It was stopped while it validated the base."""
    said = leave(Process(), signal.SIGTERM, step=0)[1]
    assert said == ["stopped by SIGTERM before the first step; start it again"]


def test_a_sigterm_while_leaving_changes_nothing():
    """Slurm signals twice, and the second must not end the process before its first line."""
    came: list[int] = []
    said: list[str] = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))

    def show(line: str) -> None:
        signal.raise_signal(signal.SIGTERM)
        said.append(line)

    with pytest.raises(SystemExit), Preemption(Process(), show, "") as preemption:  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        assert preemption.requested()
        raise Interrupted(7)
    assert (len(said), came) == (1, [])


@pytest.mark.parametrize("numbers", [(REQUEUE,), (signal.SIGTERM, REQUEUE), (REQUEUE, signal.SIGTERM, REQUEUE)])
def test_the_requeue_signal_goes_on_to_submitit_once_and_outdoes_the_others(handlers, numbers):
    assert leave(Process(), *numbers) == (
        0,
        [f"stopped by {REQUEUE.name} after step 7; the state is saved; the job asks to be requeued"],
    )
    assert handlers == [REQUEUE]


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """A function that lets `scontrol` say of job 7 when it was preempted; its array has an element of that number."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def say(preempted: str) -> None:
        times = {8: "2026-11-28T12:00:00", 7: preempted}
        lines = [f"JobId={job} ArrayJobId=7 JobState=RUNNING PreemptTime={time}" for job, time in times.items()]
        (tmp_path / "scontrol").write_text("#!/bin/sh\necho '" + "\n".join(lines) + "'\n")
        (tmp_path / "scontrol").chmod(0o755)

    return say


def test_a_sigterm_by_which_slurm_preempts_asks_to_be_requeued(handlers, slurm):
    """With GraceTime it is all that comes, and a job that ends by it has failed (measured with Slurm 22.05)."""
    slurm("2026-11-28T12:28:37")
    requeued = f"stopped by {REQUEUE.name} after step 7; the state is saved; the job asks to be requeued"
    assert leave(Process(), signal.SIGTERM) == (0, [requeued])
    assert handlers == [REQUEUE]
    slurm("None")
    assert leave(Process(), signal.SIGTERM)[0] == 128 + signal.SIGTERM  # scancel
    assert handlers == [REQUEUE]


def test_nobody_asks_slurm_without_a_job_or_without_an_answer(slurm, monkeypatch):
    slurm("2026-11-28T12:28:37")
    assert is_preempted()
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert not is_preempted()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", "/nowhere")
    assert not is_preempted()
    monkeypatch.delenv("SLURM_JOB_ID")
    assert not is_preempted()


def test_a_job_that_submitit_does_not_requeue_says_why():
    def refuse(number, frame):
        raise UncompletedJobError("Job not requeued because: timed-out too many times.")

    signal.signal(REQUEUE, refuse)
    status, said = leave(Process(), REQUEUE)
    assert status == 128 + REQUEUE
    assert said[-1] == "Job not requeued because: timed-out too many times; start it again"


def test_a_process_leaves_with_the_others_without_a_signal_of_its_own(handlers):
    process, said = Process(rank=1, world=2), []
    with pytest.raises(SystemExit) as exit_, Preemption(process, said.append, "") as preemption:  # noqa: PT012
        assert not preemption.requested()
        process.others = 3  # the first process got the requeue signal
        assert preemption.requested()
        raise Interrupted(1)
    assert (exit_.value.code, said, handlers, process.waited) == (0, [], [REQUEUE], 1)


def test_without_a_signal_everything_is_as_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, REQUEUE)]
    with Preemption(Process(), pytest.fail, "") as preemption:
        assert not preemption.requested()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, REQUEUE)] == before
    with pytest.raises(ZeroDivisionError), Preemption(Process(), pytest.fail, ""):
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, REQUEUE)] == before


def test_a_signal_after_the_last_step_is_not_lost(handlers):
    with Preemption(Process(), pytest.fail, ""):
        signal.raise_signal(REQUEUE)
        assert handlers == []
    assert handlers == [REQUEUE]


def test_the_second_ctrl_c_interrupts_at_once():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), Preemption(Process(), pytest.fail, "") as preemption:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        assert preemption.requested()
        signal.raise_signal(signal.SIGINT)


def test_outside_a_job_the_requeue_signal_keeps_its_meaning():
    signal.signal(REQUEUE, signal.SIG_DFL)
    with Preemption(Process(), pytest.fail, ""):
        assert signal.getsignal(REQUEUE) == signal.SIG_DFL


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002


def test_every_process_gets_its_own_random_generators_back(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(model, OptimizerOptions(warmup=0))
    states, expected = [], []
    for rank in range(2):
        torch.manual_seed(rank)
        np.random.seed(rank)  # noqa: NPY002
        random.seed(rank)
        states += random_generators(torch.device("cpu"))
        expected.append(draws())
    path = tmp_path / "state.pt"
    save_state(path, model, optimizer, {"step": 3}, states)
    for rank in (1, 0):
        state = read_state(path, world=2)
        assert state["progress"] == {"step": 3}
        restore_state(path, state, model, optimizer, rank)
        assert draws() == expected[rank]
    with pytest.raises(CheckpointError, match=r"state.pt: state of 2 processes, but this run has 1"):
        read_state(path)
