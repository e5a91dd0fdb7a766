"""`tools/benchmark.py evaluation` on a few prompts of the tiny model: equal detections, and parts that add up."""

from __future__ import annotations

import pytest

from benchmarks import evaluation as benchmark_evaluation
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.build import build_model


def test_detections_are_equal_and_parts_add_up(capsys):
    prefix = "evaluation/tiny/"
    figures = {
        key.removeprefix(prefix): value
        for key, value in benchmark_evaluation.measure("tiny", build_model("tiny"), 4, 1, 1).items()
    }
    assert figures["score_difference"] <= 1e-4
    assert figures["mask_iou"] >= 1 - 1e-4
    assert figures["exact/speedup"] > 0
    for kind in ("plain", "exact", "fast"):
        parts = {part: figures[f"{kind}/parts/{part}"] for part in benchmark_evaluation.PARTS}
        assert min(parts.values()) >= 0
        counted = sum(parts.values()) - parts["RLE"]
        assert counted == pytest.approx(1 / figures[f"{kind}/images_per_s"], rel=1.0)
        assert parts["trunk"] > 0
        assert parts["mask head"] > 0
    assert "4 prompts" in capsys.readouterr().out


def test_more_present_prompts_than_prompts():
    with pytest.raises(ConfigError, match="present=5; expected at most prompts=4"):
        benchmark_evaluation.run(prompts=4, present=5)
