"""The processes of a run where Slurm starts them: as many as the run has devices, or an error in words."""

from __future__ import annotations

import pytest
from one_line_errors import error_of

from sam3_hyperet.cli.evaluate import main as evaluate
from sam3_hyperet.cli.train import main as train

TRAIN = ["model.checkpoint=random", "experiment=smoke", "train.accelerator=cpu"]
EVALUATE = ["model=tiny", "model.checkpoint=random", "data=scenes", "device=cpu"]
TASK = {"SLURM_JOB_NAME": "x", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.fixture
def as_task(monkeypatch):
    """A function that makes this process a task of a job's step, as Slurm tells it; with these variables more."""
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)

    def begin(**more: str) -> None:
        for name, value in {**TASK, **more}.items():
            monkeypatch.setenv(name, value)

    return begin


@pytest.mark.parametrize(
    ("main", "options"),
    [(train, [*TRAIN, "train.devices=4"]), (evaluate, [*EVALUATE, "devices=4"])],
)
@pytest.mark.parametrize("more", [{}, {"SLURM_NTASKS_PER_NODE": "1"}])
def test_slurm_must_start_a_process_for_each_device(as_task, tmp_path, capsys, main, options, more):
    """Lightning starts none there: the run would be one process of the four."""
    as_task(**more)
    run = tmp_path / "run"
    expected = "expected srun --nodes=1 --ntasks-per-node=4 before the command, or env -u SLURM_NTASKS, so that it"
    message = f"Slurm started 1 task for 4 devices on 1 node, which take a process each; {expected}"
    assert message in error_of(main, [*options, f"run_dir={run}"], capsys, run)[0]


def test_tasks_on_other_nodes_than_the_run_has_are_an_error_in_words(as_task, tmp_path, capsys):
    as_task(SLURM_NTASKS="4", SLURM_NTASKS_PER_NODE="4")
    run = tmp_path / "run"
    arguments = [*TRAIN, "train.devices=2", "train.nodes=2", f"run_dir={run}"]
    error = error_of(train, arguments, capsys, run)[0]
    assert "train.nodes, train.strategy or train.precision: You set `devices=2` in Lightning" in error
