"""`tools/benchmark.py metrics` on a few pictures: the synthetic data are not trivial, the back ends agree on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import metrics as benchmark_metrics
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import instance_headline, instance_metrics
from sam3_hyperet.evaluation.scoring.coco import GroundTruth, check_detections
from sam3_hyperet.evaluation.scoring.coco_ap import records_of_results
from sam3_hyperet.reading import read_json


def test_all_back_ends_are_timed_and_agree(capsys: pytest.CaptureFixture[str]) -> None:
    figures = benchmark_metrics.run(images=8, detections=20, repeats=2, draws=2)
    assert figures["metrics/largest_difference"] < 1e-9
    assert figures["metrics/records/detections"] == 8 * 80 * 100
    assert figures["metrics/pycocotools/speedup"] == 1
    for what in ("sam3_hyperet", "faster-coco-eval", "pycocotools", "records", "draw"):
        assert figures[f"metrics/{what}/seconds"] >= 0
    assert "pycocotools, from files" in capsys.readouterr().out


def test_a_wrong_number_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_metrics, "score_coco_files", lambda *_, **__: dict.fromkeys(TWELVE, 0.5))
    with pytest.raises(DataError, match="differs from pycocotools'"):
        benchmark_metrics.run(images=2, detections=5, draws=1)


TWELVE = [f"{iou_type}/{key}" for iou_type in ("segm", "bbox") for key in benchmark_metrics._TWELVE]


def test_more_false_detections_of_low_scores_change_no_match(tmp_path: Path) -> None:
    truth_file, results_file = tmp_path / "truth.json", tmp_path / "results.json"
    benchmark_metrics._write_files(truth_file, results_file, 6, 30)
    truth = GroundTruth.read(truth_file)
    records = records_of_results(
        truth, check_detections(read_json(results_file), truth, "results"), sorted(truth.sizes)
    )
    filled = [benchmark_metrics._filled(record, np.random.default_rng(0)) for record in records]
    sparse, dense = (instance_metrics(of, truth.categories, {}) for of in (records, filled))
    assert 0.02 < sparse["segm/AP"] < 0.9
    assert dense["segm/AR@100"] == sparse["segm/AR@100"]
    assert dense["segm/AP"] == pytest.approx(sparse["segm/AP"], abs=1e-3)  # a score of 0.000 may rank lower
    once = instance_headline(filled, truth.categories, {})(np.ones(6, dtype=int))
    assert once["bbox/AP"] == dense["bbox/AP"]
