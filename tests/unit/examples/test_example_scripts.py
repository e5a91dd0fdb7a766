"""The examples run as they are, and do what the documentation says of them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet import sam3_host  # noqa: F401  (sam3 warns when it is imported)
from sam3_hyperet.scenes.dataset import scene

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A function that runs an example as a script in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run


def test_quickstart_shows_a_mask(run, capsys):
    run("quickstart.py")
    assert capsys.readouterr().out.startswith("car: scores [0.")
    with Image.open("quickstart.png") as image:
        shown = np.asarray(image.resize((128, 128), Image.Resampling.NEAREST), dtype=int)
    changed = np.abs(shown - scene(2, "val", 2)[0]).sum(axis=2) > 60
    assert 0.02 < changed.mean() < 0.3  # the car, and not the image
    run("quickstart.py", "building", "package:tiny_levels")
    assert capsys.readouterr().out.startswith("building: scores [0.")


def test_plain_training_loop_trains_saves_and_segments(run, capsys, tmp_path):
    assert len((EXAMPLES / "plain_training_loop.py").read_text().splitlines()) <= 80
    run("plain_training_loop.py", "out", "2")
    output = capsys.readouterr().out
    assert "stage 1: 12,483 parameters train" in output
    assert "step 2: loss " in output
    assert "000001.png: " in output
    run("before_and_after.py", "out/adapter.safetensors", "both.png", "tiny")
    with Image.open("both.png") as image:
        assert image.size == (3 * 384 + 2 * 8, 384)


def test_plain_training_loop_lowers_the_loss(tmp_path):
    losses = runpy.run_path(str(EXAMPLES / "plain_training_loop.py"))["main"](tmp_path, steps=24)
    assert np.mean(losses[12:]) < np.mean(losses[:12])
