"""Models asked picture by picture: who sees what when, on how many threads, in how many shares."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_pictures import Knowing, Part

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation import record_store
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.runner import ModelRun, record_images, records_of
from sam3_hyperet.evaluation.task import EvalTask


def accuracy(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if not key.startswith("speed/")}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_shares_and_workers_leave_every_number(evaluate, pictures, coco_file, workers):
    split = Part(pictures, coco_file, pictures)
    expected = accuracy(evaluate(Knowing(pictures), split, Protocol(granularity=False, workers=0))[2])
    knowing = Knowing(pictures)
    found = evaluate(knowing, split, Protocol(granularity=False, workers=workers), world=2)[2]
    assert accuracy(found) == expected
    assert sorted(knowing.asked) == [0, 1, 2]


def test_all_models_see_a_picture_before_any_sees_the_next(pictures, coco_file, tmp_path, monkeypatch):
    task = EvalTask(Part(pictures, coco_file), Protocol(granularity=False), (0, 1, 2))
    seen = []

    class Watching(Knowing):
        def predict(self, encoded, prompts=None, exemplars=None):
            seen.append((encoded, self.name))
            yield from super().predict(encoded, prompts)

    runs = []
    for name in "ab":
        watching = Watching(pictures)
        watching.name, watching.vocabulary = name, task.vocabulary
        store = RecordStore(tmp_path / name)
        runs.append(ModelRun(name, watching, task, task.evaluators(watching.model), store, task.positions))
    record_images(runs, [[0, 1, 2], [1, 2]], pictures.load_image)
    assert seen == [(0, "a"), (1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert pictures.opened == [0, 1, 2]
    runs[1].predictor.precision = "bf16-mixed"
    with pytest.raises(ConfigError, match=r"models in different precisions, {'a': '32-true', 'b': 'bf16-mixed'}"):
        record_images(runs, [[0], [0]], pictures.load_image)
    monkeypatch.setattr(record_store, "_LATE_SECONDS", 0.0)
    with pytest.raises(DataError, match="1 of 3 records are missing, the first that of image 0"):
        runs[1].store.read_all(task.positions)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_an_evaluator_surfaces_and_leaves_no_record(evaluate, pictures, coco_file, tmp_path, workers):
    broken = Knowing(pictures, presence=1.5)
    with pytest.raises(DataError, match=r"presence: the probability 1\.5"):
        evaluate(broken, Part(pictures, coco_file), Protocol(granularity=False, workers=workers))
    assert not list(tmp_path.glob("records/*/*.npz"))


def test_the_headline_of_ones_is_what_is_reported(evaluate, pictures, coco_file):
    split = Part(pictures, coco_file, pictures)
    run, records, metrics = evaluate(Knowing(pictures, 0.9), split, Protocol(granularity=False, max_dets=1))
    found = {}
    for name, evaluator in run.evaluators.items():
        found |= evaluator.headline(records_of(records, name))(np.ones(3, dtype=int))
    assert {"segm/AP", "fused/mIoU", "presence/IL_MCC"} <= found.keys()
    assert found == pytest.approx({key: metrics[key] for key in found}, abs=1e-12)
