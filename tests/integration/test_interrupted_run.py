"""A signal in the middle of a run: the step is finished, the state saved, and the same command goes on from there."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
from forked_tools import TRAIN, Forked

from sam3_hyperet.cli.train import main
from sam3_hyperet.modeling.tensor_files import read_safetensors
from sam3_hyperet.training import batches

pytestmark = pytest.mark.integration


@pytest.fixture
def disturbed(monkeypatch):
    """A function that lets a signal come while the third step's batch is on its way."""

    def disturb(number: signal.Signals) -> None:
        def training_batches(*arguments, step, **options):
            stream = batches.training_batches(*arguments, step=step, **options)
            for position, batch in enumerate(stream, start=step):
                if position == 2:
                    signal.raise_signal(number)
                yield batch

        monkeypatch.setattr("sam3_hyperet.cli.train.training_batches", training_batches)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    yield disturb
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_same_command_goes_on(disturbed, monkeypatch, trained, scenes, tmp_path, capsys, number):
    command = [*scenes, f"run_dir={tmp_path}", "evaluate=false", "train.save_every=0"]
    disturbed(number)
    with pytest.raises(SystemExit) as exit_:
        main(command)
    assert exit_.value.code == 128 + number
    said = " ".join(capsys.readouterr().out.split())
    assert f"stopped by {number.name} after step 3; the state is saved; to go on, run the same command with" in said
    assert f"run_dir={tmp_path}" in said.replace(" ", "").replace("with", "with ")
    assert not (tmp_path / "adapter_last.safetensors").exists()
    monkeypatch.undo()
    main(command)
    ours, theirs = (read_safetensors(folder / "adapter_last.safetensors")[0] for folder in (tmp_path, trained))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_job_of_submitit_is_requeued_after_the_state_is_saved(disturbed, scenes, tmp_path, capsys):
    requeued = []

    def submitits(number, frame):
        requeued.append((tmp_path / "state.pt").is_file())
        raise SystemExit(-1)

    signal.signal(signal.SIGUSR2, submitits)
    disturbed(signal.SIGUSR2)
    with pytest.raises(SystemExit) as exit_:
        main([*scenes, f"run_dir={tmp_path}", "evaluate=false", "train.save_every=0"])
    assert (exit_.value.code, requeued) == (-1, [True])
    assert "after step 3; the state is saved; the job asks to be requeued" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_tool_itself_ends_at_a_signal(scenes, tmp_path, workers):
    """The signal comes to the process group, loader processes included, as Slurm and a terminal send it."""
    folder = tmp_path / "run"
    command = [*scenes, f"run_dir={folder}", "train.max_steps=100000", "train.validate_every=0"]
    command += [f"train.workers={workers}"]
    process = Forked(TRAIN, command, tmp_path / "logs")
    deadline = time.monotonic() + 120
    while not (folder / "state.pt").exists() and process.running() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)
    done = process.wait(60)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr[-2000:]
    assert "stopped by SIGTERM after step" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr
