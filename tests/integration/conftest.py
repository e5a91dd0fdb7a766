"""One short run of the tiny model on a few scenes, shared by the tests of what comes after training."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from forked_tools import TRAIN, run_forked

Metrics = dict[str, Any]


class Training(NamedTuple):
    """A run's folder, and its process as it ended."""

    folder: Path
    process: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def tiny_model() -> list[str]:
    """Overrides that choose the tiny model: the packaged weights, or random ones where there are none yet."""
    from sam3_hyperet.modeling.config import PACKAGED

    packaged = resources.files("sam3_hyperet") / "weights" / PACKAGED["tiny"]
    return [] if packaged.is_file() else ["model.checkpoint=random"]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory, tiny_model: list[str]) -> list[str]:
    """Overrides of a short run on a handful of scenes, with augmentation, saved at every second step."""
    root = tmp_path_factory.mktemp("scenes")
    return [
        "experiment=smoke",
        f"paths.scenes={root}",
        "data.splits.train=6",
        "data.splits.tune=2",
        "data.splits.val=3",
        "data.zoom=1.5",
        "train.validate_images=0",
        "logger=none",
        *tiny_model,
    ]


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory, scenes: list[str]) -> Training:
    """The tool itself, which trains four steps, and what it has printed."""
    folder = tmp_path_factory.mktemp("trained")
    command = [*scenes, "logger=tensorboard", f"run_dir={folder / 'run'}"]
    return Training(folder / "run", run_forked(TRAIN, command, folder / "logs"))


@pytest.fixture(scope="session")
def trained(training: Training) -> Path:
    """The folder of a finished run of four steps. Not to be changed."""
    assert training.process.returncode == 0, training.process.stderr[-3000:]
    return training.folder


@pytest.fixture(scope="session")
def read_metrics() -> Callable[[Path], Metrics]:
    """A function from a run's folder to its metrics.json, which must be strict JSON."""

    def read(folder: Path) -> Metrics:
        metrics: Metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)
        return metrics

    return read
