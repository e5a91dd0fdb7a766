"""Radius statistics from the records of pictures are those of a probe that saw all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sam3_hyperet as hy
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.radius import RadiusEvaluator
from sam3_hyperet.inference.prediction import PromptDetections
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.parameters import adapter_sites
from sam3_hyperet.modeling.radius_sums import BINS, RadiusSums


@pytest.fixture
def adapted(model, randomized):
    return randomized(hy.inject(model, hy.HyperETConfig(scheme="A+B", curvature=0.05)), scale=0.05)


@pytest.fixture
def evaluator(adapted):
    return RadiusEvaluator(RadiusSums(adapted))


def notes(evaluator, predictor, pictures):
    with evaluator._probe:
        for i, picture in enumerate(pictures):
            encoded = predictor.encode(picture)
            evaluator.start(i, encoded)
            for answer in predictor.predict(encoded):
                evaluator.add(Prompt("car"), PromptDetections(answer, 8, 8))
            yield evaluator.finish()


def test_pictures_add_up(adapted, evaluator, picture):
    pictures = [picture, picture.rotate(90), picture.crop((0, 0, 60, 60))]
    predictor = Predictor(adapted, ["car", "sky"], 128)
    with torch.inference_mode():
        records = list(notes(evaluator, predictor, pictures))
        with RadiusSums(adapted) as probe:
            for one in pictures:
                list(predictor.predict(one))
    metrics, histograms = evaluator.evaluate(records), evaluator.histograms(records)
    assert evaluator.sites == tuple(probe.sites)
    for name, site in probe.sites.items():
        assert np.array_equal(histograms[name], site.histogram.numpy())
        for suffix, means in zip(("_before", ""), site.mean().tolist(), strict=True):
            for key, mean in zip(
                ("radius/{}/mean", "normalized_radius/{}/mean", "radius/{}/saturation"), means, strict=True
            ):
                assert metrics[key.format(name) + suffix] == pytest.approx(mean)
    assert histograms["fpn.0"].shape == (2, BINS)


def test_nothing_is_left_on_the_model_and_records_can_be_stored(adapted, evaluator, picture, tmp_path):
    with torch.inference_mode():
        (record,) = notes(evaluator, Predictor(adapted, ["car"], 128), [picture])
    np.savez(tmp_path / "record.npz", **record)
    with np.load(tmp_path / "record.npz", allow_pickle=False) as stored:
        assert evaluator.evaluate([stored]) == evaluator.evaluate([record])
    assert not any(m._forward_hooks for site in adapter_sites(adapted).values() for m in site.modules())


@pytest.mark.parametrize("scheme", ["none", "A"])
def test_without_adapters_there_is_nothing_to_say(model, picture, scheme):
    if scheme != "none":
        hy.inject(model, hy.HyperETConfig(scheme=scheme))
    evaluator = RadiusEvaluator(RadiusSums(model))
    with torch.inference_mode(), hy.adapters_disabled(model):
        records = list(notes(evaluator, Predictor(model, ["car"], 128), [picture]))
    assert evaluator.evaluate(records) == evaluator.headline(records)(np.ones(1)) == {}
