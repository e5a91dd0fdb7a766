"""Whole evaluations of pictures drawn by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn_pictures import Drawn, Knowing, Part, Region, block

from sam3_hyperet.evaluation.protocol import Protocol, positions
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.runner import Contender, evaluate_records, record_pictures
from sam3_hyperet.evaluation.task import Suite


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
    """A function that asks a predictor about a split and returns the contender, its records and its metrics."""

    def run(predictor: Knowing, split: Part, protocol: Protocol, world: int = 1, **options):
        suite = Suite(split, protocol, positions(split.images, protocol.limit), **options)
        predictor.vocabulary = suite.vocabulary
        contender = Contender(
            name="knowing",
            predictor=predictor,
            evaluators=suite.evaluators(predictor.model),
            store=RecordStore(tmp_path / "records" / str(len(list(tmp_path.glob("records/*"))))),
            positions=suite.positions,
        )
        for rank in range(world):  # one after the other, as processes would beside each other
            share = {"knowing": contender.positions[rank::world]}
            record_pictures([contender], share, split.images.picture, workers=protocol.workers)
        records = contender.store.read_all(contender.positions)
        return contender, records, evaluate_records(contender.evaluators, records, len(suite.vocabulary))

    return run


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
