"""Two processes on the CPU do what one does: the same losses and weights at an equal number of images a step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked_python import ForkedPython
from forked_tools import TRAIN, run_forked

from sam3_hyperet.cli.train import main
from sam3_hyperet.modeling.tensor_files import read_safetensors

REPOSITORY = Path(__file__).resolve().parents[2]
STARTED = """\
import runpy, sys
sys.executable, *sys.argv = sys.argv[1:]  # what Fabric starts its other process with
runpy.run_path(sys.argv[0], run_name="__main__")
"""
pytestmark = pytest.mark.integration
EVERYTHING = ["stage=3", "train.max_steps=2", "train.validate_every=2", "train.ema=0"]
SCORED = ["train.validate_images=2", "train.best=max presence/IL_MCC where loss <= base"]


@pytest.fixture(scope="module")
def four(scenes):
    """Overrides of a run whose steps see four pictures, on a number that four does not divide."""
    data = ["data.splits.train=10", "data.splits.tune=3"]
    return [*scenes, *data, "evaluate=false", "train.accelerator=cpu", "train.save_every=0", "train.ema=0.5"]


@pytest.fixture
def two_processes(tmp_path, tmp_path_factory):
    """A function that trains on two of them: forked ones, or a fresh one and the command that Fabric starts."""

    def train(*command, status=0, forked=True):
        command = [*command, "train.devices=2"]
        if forked:
            done = run_forked(TRAIN, command, tmp_path / "logs")
        else:
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
            python = ForkedPython(tmp_path_factory.mktemp("python"))
            started = [sys.executable, "-W", "error", "-c", STARTED, str(python.path), "tools/train.py", *command]
            done = subprocess.run(started, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
            python.stop()
        assert done.returncode == status, done.stderr[-3000:]
        return done.stderr

    return train


def losses(folder):
    """Every loss and gradient norm, by step and name."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kinds = ("loss", "gradient_norm")
    return {(line["step"], key): line[key] for line in lines for key in line if any(kind in key for kind in kinds)}


def metrics(folder):
    """What validation has scored, by step and name: tune/segm/AP and so on."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(line["step"], key): line[key] for line in lines for key in line if key.count("/") > 1 and "tune/" in key}


def weights(folder, name):
    return read_safetensors(folder / name)[0]


def furthest(a, b):
    """The largest difference of any weight, by name."""
    assert a.keys() == b.keys()
    return {name: float((a[name] - b[name]).abs().max()) for name in a}


@pytest.fixture(scope="module")
def whole(four, tmp_path_factory):
    """One process, one pass a step."""
    return main([*four, *SCORED, f"run_dir={tmp_path_factory.mktemp('whole')}", "train.batch_size=4"])


@pytest.mark.parametrize("spread", ["two processes", "two passes", "a prompt a pass"])
def test_the_same_losses_and_adapters(whole, four, two_processes, tmp_path, spread):
    command = [*four, f"run_dir={tmp_path}", "train.batch_size=2"]
    if spread == "two processes":
        two_processes(*command, *SCORED, "train.prompts_at_once=2", forked=False)
        assert metrics(tmp_path) == pytest.approx(metrics(whole), rel=2e-5, abs=1e-6)
        assert len([key for _, key in metrics(whole) if key == "tune/fused/mIoU"]) == 3
        best = (weights(folder, "adapter.safetensors") for folder in (whole, tmp_path))
        assert max(furthest(*best).values()) < 2e-6
    elif spread == "two passes":
        main([*command, "train.accumulate=2"])
    else:
        main([*command, "train.batch_size=4", "train.prompts_at_once=1"])
    expected, found = losses(whole), losses(tmp_path)
    assert len([key for key in expected if key[1] == "train/loss"]) == 4
    assert found == pytest.approx(expected, rel=2e-5, abs=1e-6)
    adapters = weights(whole, "adapter_last.safetensors")
    assert max(float(tensor.abs().max()) for tensor in adapters.values()) > 5e-3
    assert max(furthest(adapters, weights(tmp_path, "adapter_last.safetensors")).values()) < 2e-6


def test_sharded_training_is_training(four, two_processes, tmp_path):
    """Stage 3; then the same command once more, which goes on from the state of its first step."""
    plain, sharded = tmp_path / "plain", tmp_path / "sharded"
    main([*four, *EVERYTHING, f"run_dir={plain}", "train.batch_size=4"])
    command = [*four, *EVERYTHING, f"run_dir={sharded}", "train.batch_size=1", "train.accumulate=2"]
    command += ["train.strategy=fsdp", "train.save_every=1"]
    two_processes(*command)
    assert losses(sharded) == pytest.approx(losses(plain), rel=5e-5, abs=1e-6)
    for name in ("adapter_last.safetensors", "weights_last.safetensors"):
        apart = furthest(weights(plain, name), weights(sharded, name))
        # Adam moves what has next to no gradient, such as the biases of attention's keys, by its rounding alone
        assert max(apart.values()) < 3e-4
        assert sum(value > 2e-5 for value in apart.values()) < 0.1 * len(apart)

    shutil.copytree(sharded, tmp_path / "uninterrupted")
    (sharded / "previous_state.pt").replace(sharded / "state.pt")
    two_processes(*command)
    assert "goes on after step 1 of 2" in (tmp_path / "logs" / "stdout.txt").read_text()
    for name in ("adapter_last.safetensors", "weights_last.safetensors"):
        ours, theirs = weights(sharded, name), weights(tmp_path / "uninterrupted", name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert losses(sharded) == losses(tmp_path / "uninterrupted")


def test_an_error_of_the_user_is_one_line_of_all_processes(four, two_processes, tmp_path):
    """Found by the first process alone, or by each of them."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("mine")
    for options, message, lines in (
        ([f"run_dir={tmp_path / 'run'}"], "config.yaml is there and was not written by an earlier run", 1),
        ([f"run_dir={tmp_path / 'other'}", "optim.betas=[2,3]"], "optim: Invalid beta parameter", 2),
    ):
        said = two_processes(*four, *options, status=1)
        assert "Traceback" not in said, said[-3000:]
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) <= lines
        assert message in errors[0]
    assert (tmp_path / "run" / "config.yaml").read_text() == "mine"
    assert not (tmp_path / "other").exists()
