"""One short run of the tiny model on a few scenes, shared by the tests of what comes after training."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

Metrics = dict[str, Any]


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
def trained(tmp_path_factory: pytest.TempPathFactory, scenes: list[str]) -> Path:
    """The folder of a finished run of four steps. Not to be changed."""
    from sam3_hyperet.cli.train import main

    return main([*scenes, "logger=tensorboard", f"run_dir={tmp_path_factory.mktemp('trained') / 'run'}"])


@pytest.fixture(scope="session")
def read_metrics() -> Callable[[Path], Metrics]:
    """A function from a run's folder to its metrics.json, which must be strict JSON."""

    def read(folder: Path) -> Metrics:
        metrics: Metrics = json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)
        return metrics

    return read
