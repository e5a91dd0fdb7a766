"""A 24-megapixel picture in tiles: the memory that the whole command takes, decoding and drawing included."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.scenes.drawing import draw_scene

pytestmark = pytest.mark.slow
MOST_GIB = 3
_MEASURED = """
import resource, sys
from sam3_hyperet.cli.predict import main
main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_a_large_picture_takes_little_memory(tmp_path):
    rng = np.random.default_rng(0)
    rows = [np.hstack([draw_scene(rng, 250)[0] for _ in range(24)]) for _ in range(16)]
    Image.fromarray(np.vstack(rows)).save(tmp_path / "large.jpg", quality=92)
    options = ["prompts=car,house,tree,sky", "tiles=8x6", "score_threshold=.2", f"run_dir={tmp_path / 'out'}"]
    command = [sys.executable, "-c", _MEASURED, f"images={tmp_path / 'large.jpg'}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout.rpartition("peak ")[2]) * 1024
    assert "large.jpg in 8x6 tiles" in done.stdout
    assert peak < MOST_GIB * 2**30
