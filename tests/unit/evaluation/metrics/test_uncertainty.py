"""Radius as uncertainty: radii read off the pyramid, errors against the annotations, and figures from the records."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from answers import drawn_prediction
from drawn_pictures import Region
from scipy.stats import spearmanr
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.uncertainty import (
    BASE_CURVATURE,
    PooledDetections,
    UncertaintyEvaluator,
    pyramid_radii,
)
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.hyperbolic.radius import normalized_radius
from sam3_hyperet.inference.prediction import PromptDetections
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.probe import watchable_base

SIDE = 8
PROMPTS = (Prompt("a", 5), Prompt("b", 7), Prompt("c"))  # the last is no category


@dataclass(frozen=True)
class Size:
    height: int = SIDE
    width: int = SIDE


class Drawn:
    categories = ()

    def __init__(self, *pictures, partly=()):
        self.pictures, self.partly = pictures, frozenset(partly)

    def image(self, i):
        return Size()

    def instances(self, i):
        return self.pictures[i]

    def not_exhaustive(self, i):
        return self.partly

    def unlabelled(self, i):
        return frozenset()


class Model(nn.Module):
    backbone = nn.Identity()


def block(x0, x1):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[:, x0:x1] = True
    return mask


def answer(*detections, presence=1.0):
    """Detections are (mask, score with presence)."""
    return drawn_prediction(detections, SIDE, SIDE, presence)


FEATURES = torch.arange(SIDE, dtype=torch.float32).expand(1, 1, SIDE, SIDE) + 1  # column x has the norm x + 1


def start(regions, features=FEATURES, partly=()):
    evaluator = UncertaintyEvaluator(Model(), Drawn(regions, partly=partly), Protocol())
    evaluator.start(0, {"backbone_fpn": [features]})
    return evaluator


def note(regions, *answers, partly=()):
    evaluator = start(regions, partly=partly)
    for prompt, one in zip(PROMPTS, answers, strict=False):
        evaluator.add(prompt, PromptDetections(one, SIDE, SIDE))
    return evaluator, evaluator.finish()


def radius(*norms):
    return float(np.tanh(np.sqrt(BASE_CURVATURE) * np.array(norms)).mean())


def test_radius_score_and_iou_of_each_detection():
    regions = [Region(5, block(0, 4)), Region(5, block(6, 8)), Region(7, block(0, 8))]
    _, record = note(
        regions,
        answer((block(0, 3), 0.9), (block(5, 8), 0.6), (block(0, 4), 0.4), presence=0.95),
        answer(),
        answer((block(0, 8), 0.9)),  # of no category
    )
    expected = np.array([[radius(1, 2, 3), 0.9, 3 / 4], [radius(6, 7, 8), 0.6, 2 / 3]])
    assert np.allclose(record["detections"].T, expected, rtol=1e-6)


def test_a_detection_of_what_is_not_there_is_all_wrong():
    _, record = note([Region(7, block(0, 4))], answer((block(0, 4), 0.9)))
    assert record["detections"][2].tolist() == [0]


def test_a_detection_in_a_crowd_is_left_out():
    regions = [Region(5, block(0, 8), crowd=True), Region(5, block(0, 2))]
    _, record = note(regions, answer((block(0, 2), 0.9), (block(4, 5), 0.8)))
    assert record["detections"][1:].tolist() == [[pytest.approx(0.9)], [1]]


def test_a_detection_of_what_need_not_be_annotated_is_left_out():
    _, record = note([Region(5, block(0, 2))], answer((block(0, 2), 0.9), (block(4, 5), 0.8)), partly=[5])
    assert record["detections"][1:].tolist() == [[pytest.approx(0.9)], [1]]


def test_the_radius_is_the_mean_over_the_mask_however_sure_a_pixel_is():
    unsure = answer((block(0, 4), 0.9))
    unsure.mask_logits[0, :, 2:4] = 0.1
    _, record = note([], unsure)
    assert record["detections"][0, 0] == pytest.approx(radius(1, 2, 3, 4))


def test_a_mask_without_a_pixel_is_read_at_its_most_probable_place():
    empty = answer((block(0, 0), 0.9))
    empty.mask_logits[0, 3, 5] = -10.0
    _, record = note([], empty)
    assert record["detections"][0, 0] == pytest.approx(radius(6))


def test_a_picture_without_a_detection(tmp_path):
    evaluator, record = note([Region(5, block(0, 4))], answer((block(0, 4), 0.4)), answer())
    assert record["detections"].shape == (3, 0)
    assert evaluator.evaluate([record]) == {"uncertainty/detections": 0, "uncertainty/wrong": 0}
    assert evaluator.headline([record])(np.ones(1)) == {}
    np.savez(tmp_path / "record.npz", **record)


def records(seed=0, pictures=30, sign=1):
    """Detections whose error grows with the radius, noisily, and whose score says nothing."""
    rng = np.random.default_rng(seed)
    made = []
    for count in rng.integers(0, 12, pictures):
        radius, score, noise = rng.random((3, count))
        made.append({"detections": np.stack([sign * radius, 0.5 + score / 2, np.clip(1 - radius - 0.2 * noise, 0, 1)])})
    return made


def test_figures_from_the_records():
    made = records()
    found = UncertaintyEvaluator(Model(), Drawn(), Protocol()).evaluate(made)
    radius, score, iou = np.concatenate([record["detections"] for record in made], axis=1)
    assert found["uncertainty/detections"] == len(iou)
    assert found["uncertainty/wrong"] == (iou < 0.5).sum()
    for kind, values in (("radius", radius), ("score", 1 - score)):
        assert found[f"uncertainty/{kind}/spearman"] == pytest.approx(spearmanr(values, 1 - iou).statistic)
    assert found["uncertainty/radius/auroc"] > 0.9 > 0.7 > found["uncertainty/score/auroc"] > 0.3
    oracle, random = found["uncertainty/aurc/oracle"], found["uncertainty/aurc/random"]
    assert oracle <= found["uncertainty/radius/aurc"] < found["uncertainty/score/aurc"]
    assert random == pytest.approx((1 - iou).mean())
    gain = found["uncertainty/both/auroc"] - found["uncertainty/score/auroc"]
    assert found["uncertainty/beyond_score/auroc"] == pytest.approx(gain)
    assert gain > 0.2 > 0 > found["uncertainty/beyond_score/aurc"]


def test_a_smaller_radius_may_mean_the_error():
    larger, smaller = (
        UncertaintyEvaluator(Model(), Drawn(), Protocol()).evaluate(records(sign=sign)) for sign in (1, -1)
    )
    key = "uncertainty/radius"
    assert smaller[f"{key}/spearman"] == pytest.approx(-larger[f"{key}/spearman"])
    assert smaller[f"{key}/auroc"] == pytest.approx(1 - larger[f"{key}/auroc"])


def test_the_headline_is_a_function_of_how_often_a_picture_counts():
    made = records()
    evaluator = UncertaintyEvaluator(Model(), Drawn(), Protocol())
    headline, metrics = evaluator.headline(made), evaluator.evaluate(made)
    ones = headline(np.ones(len(made), int))
    assert {"uncertainty/radius/spearman", "uncertainty/score/auroc"} <= ones.keys()
    assert ones == {key: pytest.approx(metrics[key]) for key in ones}
    weights = np.random.default_rng(1).integers(0, 3, len(made))
    drawn = [record for record, n in zip(made, weights, strict=True) for _ in range(n)]
    refitted = evaluator.evaluate(drawn)
    for key, value in headline(weights).items():
        close = 0.02 if "both" in key or "beyond" in key else 1e-6  # what is wrong weighs the two, once for all draws
        assert value == pytest.approx(refitted[key], rel=close, abs=close)


def test_the_curve_of_the_plot():
    coverage, risk = PooledDetections(records()).curve("radius")
    assert coverage[-1] == 1
    assert (np.diff(coverage) > 0).all()
    assert (
        risk[0]
        < risk[-1]
        == pytest.approx(
            UncertaintyEvaluator(Model(), Drawn(), Protocol()).evaluate(records())["uncertainty/aurc/random"]
        )
    )


@pytest.mark.parametrize(("levels", "level"), [(None, 0), ((1,), 1)])
def test_the_level_and_curvature_of_the_adapters(model, randomized, picture, levels, level):
    predictor = Predictor(model, ["car"], 128)
    base = normalized_radius(predictor.encode(picture)["backbone_fpn"][level][0], BASE_CURVATURE, 0)
    randomized(hy.inject(model, hy.HyperETConfig(levels=levels, curvature=0.1)), scale=0.05)
    encoded = predictor.encode(picture)
    adapted = pyramid_radii(model, encoded)
    features = encoded["backbone_fpn"][level][0]
    assert torch.allclose(
        adapted.float(), normalized_radius(features, model.backbone.fpn_adjustment.level(level).curvature(), 0)
    )
    with hy.adapters_disabled(model):
        off = pyramid_radii(model, predictor.encode(picture))
    assert torch.allclose(off.float(), base)
    assert not torch.allclose(off, adapted)
    twin = watchable_base(model)
    assert torch.equal(pyramid_radii(twin, Predictor(twin, ["car"], 128).encode(picture)), off)


@pytest.mark.parametrize("scheme", ["none", "B", "P"])
def test_a_model_whose_pyramid_is_not_adjusted(model, randomized, picture, scheme):
    if scheme != "none":
        randomized(hy.inject(model, hy.HyperETConfig(scheme=scheme)), scale=0.05)
    encoded = Predictor(model, ["car"], 128).encode(picture)
    features = encoded["backbone_fpn"][0][0]
    assert torch.allclose(pyramid_radii(model, encoded).float(), normalized_radius(features, BASE_CURVATURE, 0))
