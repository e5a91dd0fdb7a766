"""The official sizes, with random weights: stage 1 through the real training loop at the smallest resolution."""

from __future__ import annotations

import json
import math

import pytest
from forked_tools import run_forked

PROGRAM = """
import json
from benchmarks import large
from official import CudaElsewhere, draw_weights

build_model = large.build_model

def build(*arguments, **options):
    with CudaElsewhere("cpu", draw=False):  # drawing takes as long as training
        model = build_model(*arguments, **options)
    draw_weights(model)
    return model

large.build_model = build
print("figures", json.dumps(large.run(steps=1, prompts=1, resolution=336)))
"""


@pytest.mark.slow
def test_stage_1_trains_on_the_official_sizes(tmp_path):
    """In a process of its own, so that the 3.4 GB of weights do not stay and the peak is its own."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    process = run_forked(script, [], tmp_path / "logs", strict=False)
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
