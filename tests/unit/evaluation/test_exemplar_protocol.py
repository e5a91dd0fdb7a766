"""Evaluation with box exemplars: who is asked for what, with which boxes, and which metrics are left."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from drawn_pictures import HEIGHT, WIDTH, Annotated, Knowing, Part

from sam3_hyperet.choices import VISUAL
from sam3_hyperet.data.annotations import Category, Instance
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.models import EvalModel
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.runner import evaluate_records, open_run, record_images
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.evaluation.validation_score import known_metrics
from sam3_hyperet.inference.exemplars import Exemplars
from sam3_hyperet.inference.predictor import Predictor

ONE = Protocol(exemplars=1, granularity=False)
ALONE = replace(ONE, exemplar_text=False)
TEXT = replace(ONE, exemplars=0, present_only=True)
SHOWN = {0: ["wheel", "car", "vehicle"], 1: ["dog"], 2: ["wheel", "vehicle"]}  # picture 1 has a crowd of cars


class Watching(Knowing):
    """Knows the truth, whatever text it is asked, and keeps what it was given."""

    def __init__(self, pictures):
        super().__init__(pictures)
        self.given = {}

    def predict(self, i, prompts=None, exemplars=None):
        self.given[i] = (list(prompts), exemplars)
        return [self.answer(i, name) for name in SHOWN[i]]


@pytest.fixture
def split(pictures, coco_file):
    return Part(pictures, coco_file, labels=pictures)


def task_of(split, protocol):
    return EvalTask(split, protocol, range(3), shown_maps=(0,))


def asked_of(task):
    return {i: [task.prompts[k].text for k in task.asked(i)] for i in range(3)}


@pytest.mark.parametrize("protocol", [ONE, ALONE, TEXT])
def test_present_concepts_alone_are_asked_for_and_scored(evaluate, split, protocol):
    task = task_of(split, protocol)
    assert asked_of(task) == SHOWN
    predictor = Watching(split.images)
    _, records, metrics = evaluate(predictor, split, protocol)
    assert metrics["segm/AP"] == metrics["bbox/AP"] == pytest.approx(1)  # the exemplar's own object counts as well
    assert metrics["segm/positive_micro_F1"] == pytest.approx(1, abs=1e-3)
    assert metrics["presence/accuracy_present"] == 1
    left_out = ("cgF1", "IL_MCC", "accuracy_absent", "mIoU", "hierarchy", "granularity")
    assert not [key for key in metrics if any(name in key for name in left_out)]
    known = [key for key in known_metrics(task) if not key.startswith("forgetting/")]
    assert set(known) <= metrics.keys()
    assert sum(int((record["presence/truth"] == 0).sum()) for record in records) == 0
    texts, exemplars = predictor.given[0]
    if protocol.present_only:
        assert exemplars is None
    elif protocol.exemplar_text:
        assert [task.texts[k] for k in texts] == SHOWN[0]
    else:
        assert [task.texts[k] for k in texts] == [VISUAL] * 3


def test_the_boxes_are_of_instances_drawn_by_seed_image_and_category(split):
    def boxes(i, **options):
        return [one.boxes for one in task_of(split, Protocol(**options)).given(i)[1]]

    cars = {(4.5, 4.0, 5.0, 4.0), (12.5, 4.0, 5.0, 4.0)}
    drawn = set()
    for seed in range(8):
        wheel, car, _ = boxes(0, exemplars=1, exemplar_seed=seed)
        assert np.multiply(wheel, (WIDTH, HEIGHT) * 2).tolist() == [[4.5, 14.0, 5.0, 4.0]]
        drawn.add(tuple(np.multiply(car[0], (WIDTH, HEIGHT) * 2).round(6).tolist()))
        both = boxes(0, exemplars=3, exemplar_seed=seed)[1]  # as far as there are so many, the same one first
        assert both[0] == car[0]
        assert len(both) == 2
    assert drawn == cars
    assert boxes(0, exemplars=1) == boxes(0, exemplars=1) == boxes(0, exemplars=1, exemplar_text=False)


def test_categories_below_zero_have_boxes(pictures):
    images = Annotated(
        "own", [Category(-4, "car")], [pictures.image(0)], [(Instance(-4, pictures.instances(0)[0].rle),)]
    )
    task = EvalTask(Part(images, Path("own.json")), ONE, range(1))
    (_, (exemplars,)) = task.given(0)
    assert np.multiply(exemplars.boxes[0], (WIDTH, HEIGHT) * 2).tolist() == [4.5, 4.0, 5.0, 4.0]


def test_of_tiles_each_is_given_the_boxes_that_lie_in_it(base, split, tmp_path, monkeypatch):
    """And is asked by the name alone where none is; nothing where there is no name either."""
    predict, given = Predictor.predict, []

    def watched(self, encoded, prompts=None, exemplars=None):
        given.append(list(zip([self.vocabulary[k] for k in prompts], exemplars, strict=True)))
        return predict(self, encoded, prompts, exemplars)

    monkeypatch.setattr(Predictor, "predict", watched)
    task = task_of(split, replace(ONE, exemplars=2, tiles="2x1"))
    run = open_run(EvalModel("base", base), task, RecordStore(tmp_path / "records"))
    record_images([run], [[0]], lambda i: split.images.load_image(i).convert("RGB"), workers=0)
    tile = run.tiled.grid(WIDTH, HEIGHT).tiles[1]
    left, right = given
    assert [text for text, _ in left] == SHOWN[0]
    assert [one and len(one.boxes) for _, one in left] == [1, 2, None]
    vehicle = Exemplars.in_pixels([(20 - tile.left, 12, 5, 4)], (tile.width, HEIGHT), (True,))
    assert right == list(zip(SHOWN[0], [None, None, vehicle], strict=True))
    metrics = evaluate_records(run.evaluators, run.store.read_all([0]), 3)
    assert 0 <= metrics["segm/AP"] <= 1

    given.clear()
    run = open_run(EvalModel("base", base), task_of(split, replace(ALONE, tiles="2x1")), run.store)
    record_images([run], [[0]], lambda i: split.images.load_image(i).convert("RGB"), workers=0)
    assert [[text for text, _ in one] for one in given] == [[VISUAL] * 2, [VISUAL]]


def test_records_depend_on_it_and_without_it_are_what_they_were():
    before = {"max_dets", "mask_threshold", "presence_threshold", "score_threshold", "min_score", "recall", "synonyms"}
    before |= {"calibration_images", "granularity", "prompts_at_once", "precision", "limit", "examples"}
    assert before <= Protocol().deciding().keys()
    new = {"present_only", "exemplars", "exemplar_text", "exemplar_seed"}
    assert new <= asdict(Protocol()).keys()
    assert not new & Protocol().deciding().keys()
    kinds = [TEXT, ONE, ALONE, replace(ONE, exemplar_seed=1)]
    assert len({str(one.deciding()) for one in [Protocol(), *kinds]}) == 5
    assert [one.prompted_by for one in (Protocol(), *kinds)] == [
        "",
        "T, present concepts alone (AP⁺)",
        "T+I, 1 exemplar, seed 0, present concepts alone (AP⁺)",
        "I, 1 exemplar, seed 0, present concepts alone (AP⁺)",
        "T+I, 1 exemplar, seed 1, present concepts alone (AP⁺)",
    ]


def test_what_cannot_be_is_refused(pictures):
    with pytest.raises(ConfigError, match="exemplar_text=false needs boxes"):
        Protocol(exemplar_text=False)
    with pytest.raises(ConfigError, match=r"protocol.exemplar_seed=3 needs boxes; expected protocol.exemplars from 1"):
        Protocol(exemplar_seed=3)
    with pytest.raises(ConfigError, match=r"alone=0.2 is of prompts with a box; expected data.exemplars above 0"):
        DataOptions("drawn", "coco", "", {"train": "x"}, exemplars_alone=0.2)
    for options in ({"exemplars": 1}, {"present_only": True}):
        with pytest.raises(ConfigError, match=r"spares absent concepts, for which .* does not ask"):
            Protocol(min_score=0.05, recall=0.995, **options)
    with pytest.raises(ConfigError, match="is of single instances, and drawn has label maps alone"):
        EvalTask(Part(pictures, labels=pictures), ONE, range(3))
