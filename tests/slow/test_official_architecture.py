"""The official sizes, with random weights: stage 1 through the real training loop at the smallest resolution."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = """
import json
from benchmarks.large import run
print("figures", json.dumps(run(steps=1, prompts=1, resolution=336)))
"""


@pytest.mark.slow
def test_stage_1_trains_on_the_official_sizes():
    """In a process of its own, so that the 3.4 GB of weights do not stay and the peak is its own."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-4000:]
    line = next(line for line in process.stdout.splitlines() if line.startswith("figures "))
    figures = json.loads(line.removeprefix("figures "))
    assert figures["trainable"] == 3 * 256 * 256
    assert 840e6 < figures["total"] - figures["trainable"] < 841e6
    assert figures["identity_difference"] <= 1e-5
    (loss,) = figures["losses"]
    assert math.isfinite(loss)
    assert loss > 0
    assert figures["adapter_change"] > 1e-4
    assert 3.4 < figures["peak_gib"] < 24
