from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from sam3_hyperet.data.annotations import ImageInfo
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.examples import ExampleEvaluator
from sam3_hyperet.inference.prediction import PromptDetections, PromptPrediction
from sam3_hyperet.masks import decode


def answer(scores, presence=1.0):
    """Query q's mask is row q of an 8 × 8 map, enlarged to 16 × 16."""
    logits = torch.full((len(scores), 8, 8), -9.0)
    for q in range(len(scores)):
        logits[q, q] = 9.0
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(len(scores), 1)
    return PromptDetections(PromptPrediction(torch.tensor(scores), boxes, logits, logits.amax(0), presence), 16, 16)


def evaluator(*present):
    instances = [SimpleNamespace(category_id=category_id, crowd=False) for category_id in present]
    images = SimpleNamespace(image=lambda i: ImageInfo(i, Path("a.png"), 16, 16), instances=lambda i: instances)
    return ExampleEvaluator(images)


def test_confident_detections_come_back_best_first():
    one = evaluator()
    one.start(3, {})
    one.add(Prompt("a", 7), answer([0.6, 0.2, 0.9]))
    one.add(Prompt("b"), answer([0.99]))  # no category's prompt
    one.add(Prompt("c", 9), answer([0.8], presence=0.5))  # .4 in all
    record = one.finish()
    assert all(values.dtype != object for values in record.values())
    found = one.detections(3, 7, record)
    assert [round(score, 6) for _, score in found] == [0.9, 0.6]
    rows = [np.flatnonzero(decode(rle).any(axis=1)).mean() for rle, _ in found]
    np.testing.assert_allclose(rows, [4.5, 0.5], atol=0.6)
    assert decode(found[0][0]).shape == (16, 16)
    assert one.detections(3, 9, record) == []
    assert one.detections(3, 1, record) == []


def test_the_best_detection_of_a_present_category_is_kept_where_none_is_confident():
    one = evaluator(7, 9)
    one.start(3, {})
    one.add(Prompt("a", 7), answer([0.1, 0.3, 0.2]))
    one.add(Prompt("b", 8), answer([0.4]))  # of what is not there
    one.add(Prompt("c", 9), answer([0.9, 0.1]))
    record = one.finish()
    found = {category: [round(score, 6) for _, score in one.detections(3, category, record)] for category in (7, 8, 9)}
    assert found == {7: [0.3], 8: [], 9: [0.9]}


def test_a_picture_without_detections():
    one = evaluator()
    one.start(0, {})
    one.add(Prompt("a", 7), answer([0.1], presence=0.0))
    record = one.finish()
    assert {name: len(values) for name, values in record.items()} == dict.fromkeys(record, 0)
    assert one.detections(0, 7, record) == []
    assert one.evaluate([record]) == {}
