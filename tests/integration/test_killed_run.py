"""SIGKILL at any moment, also within a save: the same command goes on, and ends in the same bits."""

from __future__ import annotations

import os
import random
import signal
import time

import psutil
import pytest
import torch
from forked_tools import TRAIN, Forked
from mortal_runs import AfterSeconds, AtFileOperation, MortalRuns, WithinSave

from sam3_hyperet.modeling.tensor_files import read_safetensors
from sam3_hyperet.training.run_log import read_history

pytestmark = pytest.mark.integration
STEPS = 40
LOADERS_LOOK_FOR_THEIR_PARENT = 15  # seconds; they do so every five


@pytest.fixture(scope="module")
def command(scenes):
    """A run with augmentation and two loader workers, that saves its state after every step; validation is by a rule,
    of a moving average, and a step that runs out of memory would be repeated."""
    return [
        *scenes,
        "data.flip=0.5",
        "data.num_negatives=0",
        "train.batch_size=1",
        "train.workers=2",
        f"train.max_steps={STEPS}",
        "train.save_every=1",
        "train.validate_every=7",
        "train.validate_images=1",
        "train.best=max segm/AP where loss <= base and presence/accuracy_absent >= base-0.5",
        "train.ema=0.9",
        "train.memory=auto",
        "train.prompts_at_once=2",
        "train.checkpoint_activations=false",
        "evaluate=false",
    ]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """The folder of that run without any interruption."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    MortalRuns(folder, command).finish()
    return folder


def history(folder):
    lines = read_history(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if not key.endswith("/seconds")} for line in lines]


def assert_same(folder, other):
    """Of two finished runs: every line of the history, both adapters to the bit, and the names of all files."""
    assert history(folder) == history(other)
    for name in ("adapter.safetensors", "adapter_last.safetensors"):
        (ours, about), (theirs, about_theirs) = (read_safetensors(run / name) for run in (folder, other))
        assert about == about_theirs
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert {file.name for file in folder.iterdir()} == {file.name for file in other.iterdir()}


def test_twenty_kills(command, undisturbed, tmp_path):
    rng = random.Random(0)
    folder = tmp_path / "run"
    pace = read_history(undisturbed / "metrics.jsonl")[-2]["train/seconds"] / STEPS
    deaths = [AfterSeconds(rng.uniform(0, 3) * pace, group=bool(n % 2)) for n in range(8)]
    deaths += [AtFileOperation(folder, rng.randint(1, 25)) for _ in range(6)]
    deaths += [WithinSave(rng.randint(1, 3), rng.random()) for _ in range(6)]
    rng.shuffle(deaths)
    runs = MortalRuns(folder, command)
    for death in deaths:
        runs.kill(death)
    runs.finish()
    assert_same(folder, undisturbed)
    assert not runs.survivors(LOADERS_LOOK_FOR_THEIR_PARENT)


def test_the_tool_itself_killed(command, undisturbed, tmp_path):
    """Its main process alone, as the kernel does where memory is short."""
    folder = tmp_path / "run"
    process = Forked(TRAIN, [*command, f"run_dir={folder}"], tmp_path / "logs")
    deadline = time.monotonic() + 120
    while not (folder / "previous_state.pt").exists() and process.running() and time.monotonic() < deadline:
        time.sleep(0.05)
    loaders = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60).returncode == -signal.SIGKILL
    assert len(loaders) == 2
    assert 2 <= history(folder)[-1]["step"] < STEPS
    MortalRuns(folder, command).finish()
    assert_same(folder, undisturbed)
    assert not psutil.wait_procs(loaders, LOADERS_LOOK_FOR_THEIR_PARENT)[1]
