"""SIGKILL of a prediction at any moment, also within a write: the same command ends in the same files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mortal_runs import AtFileOperation, MortalRuns
from PIL import Image

pytestmark = pytest.mark.integration
IMAGES = 3


@pytest.fixture
def command(tmp_path):
    """An adapted model beside its base on tiles, with boxes for some images, and masks."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(IMAGES):
        noise = np.random.default_rng(number).integers(0, 255, (36, 50 + number, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({f"{number}.png": [{"box": [4, 4, 20, 20]}] for number in (0, 2)}))
    model = ["adapter=package:tiny_levels", "model=tiny_levels", "tiles=2x1", "score_threshold=0.19", "device=cpu"]
    return [f"images={folder}", "prompts=car", f"exemplars={boxes}", "masks=true", *model]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_prediction_is_killed_and_goes_on(command, tmp_path):
    undisturbed = MortalRuns(tmp_path / "undisturbed", command, "predict")
    undisturbed.finish()
    expected = files(undisturbed.folder)
    assert any(name.startswith("masks/2/") for name in expected)
    first = 3 * (2 + sum(name.startswith("masks/0/") for name in expected))  # each is opened, renamed and removed
    runs = MortalRuns(tmp_path / "run", command, "predict")
    for n in (13 + first + 5, 25):  # 13 come before the first image: within the second one, twice
        runs.kill(AtFileOperation(runs.folder, n))
        assert "predictions.json" not in files(runs.folder)
    runs.finish()
    assert f"1 of {IMAGES} images taken over, goes on with 2\n" in runs.said()
    assert files(runs.folder) == expected
