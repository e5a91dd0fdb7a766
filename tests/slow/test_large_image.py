"""A 24-megapixel picture in tiles: the memory that the whole command takes, decoding and drawing included."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from forked_tools import run_forked
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
    row = np.hstack([draw_scene(rng, 250)[0] for _ in range(24)])
    Image.fromarray(np.tile(row, (16, 1, 1))).save(tmp_path / "large.jpg", quality=92)
    options = ["prompts=car,house,tree,sky", "tiles=8x6", "score_threshold=.2", f"run_dir={tmp_path / 'out'}"]
    (script := tmp_path / "measured.py").write_text(_MEASURED)
    done = run_forked(script, [f"images={tmp_path / 'large.jpg'}", *options], tmp_path / "logs", strict=False)
    assert done.returncode == 0, done.stderr[-3000:]
    peak = int(done.stdout.rpartition("peak ")[2]) * 1024
    assert "large.jpg in 8x6 tiles" in done.stdout
    assert peak < MOST_GIB * 2**30
