"""Boxes that prompts of training are given: of their own targets, by draws that change nothing else."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from drawn_pictures import Drawn, Region, block

from sam3_hyperet.choices import VISUAL
from sam3_hyperet.data.loading import ConceptPrompts, build_loader
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.data.sources import open_run
from sam3_hyperet.data.transforms import Augmentation
from sam3_hyperet.errors import ConfigError

PICTURES = Drawn(
    [
        [Region(7, block(2, 2)), Region(7, block(20, 12)), Region(3, block(2, 12))],
        [Region(8, block(4, 4, 9, 9)), Region(7, block(20, 3), crowd=True)],
    ]
)
EPOCHS = 40


def points(**options):
    sampler = PromptSampler(PICTURES.categories, num_negatives=1)
    dataset = ConceptPrompts(PICTURES, 32, sampler, Augmentation(0.5, 1.5), 5, **options)
    return [dataset[pick] for pick in itertools.product(range(EPOCHS), range(len(PICTURES)))]


@pytest.fixture(scope="module")
def plain():
    return points()


def test_without_them_there_is_no_box_and_with_them_all_else_is_the_same(plain):
    with_boxes = points(exemplars=0.3, exemplars_alone=0.5)
    assert not any(query.input_bbox is not None for point in plain for query in point.find_queries)
    given = alone = present = 0
    for one, other in zip(plain, with_boxes, strict=True):
        assert torch.equal(one.images[0].data, other.images[0].data)
        objects = [torch.cat([o.bbox, o.segment.flatten()]) for point in (one, other) for o in point.images[0].objects]
        assert all(map(torch.equal, objects[: len(objects) // 2], objects[len(objects) // 2 :]))
        for query, drawn in zip(one.find_queries, other.find_queries, strict=True):
            assert query.object_ids_output == drawn.object_ids_output
            assert query.inference_metadata == drawn.inference_metadata
            present += bool(query.object_ids_output)
            if drawn.input_bbox is None:
                assert drawn.query_text == query.query_text
                continue
            given += 1
            alone += drawn.query_text == VISUAL
            assert drawn.query_text in (query.query_text, VISUAL)
            targets = [other.images[0].objects[i].bbox for i in drawn.object_ids_output]  # in the view, mirrored or not
            assert any(torch.equal(drawn.input_bbox, box[None]) for box in targets)
            assert drawn.input_bbox_label.tolist() == [True]
    assert 0.2 < given / present < 0.4
    assert 0.3 < alone / given < 0.7


def test_each_target_is_drawn_and_the_draw_is_that_of_seed_epoch_and_image():
    one, again = (points(exemplars=1.0, exemplars_alone=0.0) for _ in range(2))
    seen = set()
    for point, same in zip(one, again, strict=True):
        for query, repeated in zip(point.find_queries, same.find_queries, strict=True):
            if query.object_ids_output:
                assert torch.equal(query.input_bbox, repeated.input_bbox)
                boxes = [point.images[0].objects[i].bbox for i in query.object_ids_output]
                seen.add((len(boxes), [torch.equal(query.input_bbox[0], box) for box in boxes].index(True)))
    assert seen == {(1, 0), (2, 0), (2, 1)}


def test_a_batch_has_the_boxes_padded():
    sampler = PromptSampler(PICTURES.categories, num_negatives=1)
    (batch,) = build_loader(ConceptPrompts(PICTURES, 32, sampler, None, 5, 1.0, 1.0), 2)
    stage, target = batch.find_inputs[0], batch.find_targets[0]
    has_box = target.num_boxes > 0
    assert stage.input_boxes.shape == (1, len(has_box), 4)
    assert stage.input_boxes.dtype == torch.float32
    assert torch.equal(~stage.input_boxes_mask[:, 0], has_box)
    assert torch.equal(stage.input_boxes_label[0], has_box.long())
    texts = [batch.find_text_batch[i] for i in stage.text_ids.tolist()]
    assert [text == VISUAL for text in texts] == has_box.tolist()


def test_whole_classes_are_no_exemplars(monkeypatch):
    options = DataOptions("drawn", "coco", "", {"train": "x"}, exemplars=0.3)
    from sam3_hyperet.data import sources

    monkeypatch.setattr(PICTURES, "has_instances", False, raising=False)
    monkeypatch.setattr(sources, "read_split", lambda *_: None)
    monkeypatch.setattr(sources, "training_images", lambda *_: PICTURES)
    with pytest.raises(ConfigError, match=r"data.exemplars=0.3: the regions of drawn are whole classes"):
        open_run(options, tune=False, evaluate=False)
    open_run(replace(options, exemplars=0.0), tune=False, evaluate=False)
