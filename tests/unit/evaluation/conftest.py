"""Whole evaluations of pictures drawn by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn_pictures import Drawn, Knowing, Part, Region, block

from sam3_hyperet.evaluation.protocol import Protocol, evenly_spread
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.runner import ModelRun, evaluate_records, record_images
from sam3_hyperet.evaluation.task import EvalTask


@pytest.fixture
def pictures() -> Drawn:
    return Drawn(
        [
            [Region(7, block(2, 2)), Region(7, block(10, 2)), Region(3, block(2, 12)), Region(20, block(20, 12))],
            [Region(8, block(4, 4, 9, 9)), Region(7, block(20, 3), crowd=True)],
            [Region(20, block(0, 0, 32, 10)), Region(3, block(5, 15))],
        ]
    )


@pytest.fixture
def coco_file(pictures: Drawn, tmp_path: Path) -> Path:
    return pictures.write(tmp_path / "truth.json")


@pytest.fixture
def evaluate(tmp_path):
    """A function that evaluates a predictor on a split and returns the run, its records and its metrics."""

    def evaluated(predictor: Knowing, split: Part, protocol: Protocol, world: int = 1, **options):
        task = EvalTask(split, protocol, evenly_spread(range(len(split.images)), protocol.limit), **options)
        predictor.vocabulary = task.vocabulary
        store = RecordStore(tmp_path / "records" / str(len(list(tmp_path.glob("records/*")))))
        run = ModelRun("knowing", predictor, task, task.evaluators(predictor.model), store, task.positions)
        for rank in range(world):  # one after the other, as processes would beside each other
            record_images([run], [run.positions[rank::world]], split.images.load_image, workers=protocol.workers)
        records = store.read_all(run.positions)
        prompts = sum(len(task.asked(i)) for i in run.positions)
        return run, records, evaluate_records(run.evaluators, records, prompts)

    return evaluated


@pytest.fixture
def instances(evaluate, pictures, coco_file):
    """A function from a predictor to the metrics of the drawn instances."""

    def run(predictor: Knowing, split: Part | None = None, **options):
        return evaluate(predictor, split or Part(pictures, coco_file), Protocol(granularity=False, **options))[2]

    return run


@pytest.fixture
def label_maps(evaluate, pictures):
    """The same of their label maps."""

    def run(predictor: Knowing, **options):
        return evaluate(predictor, Part(pictures, labels=pictures), Protocol(granularity=False, **options))[2]

    return run
