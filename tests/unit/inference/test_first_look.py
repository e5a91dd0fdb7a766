"""A first look decides for each prompt whether the full model sees it; image and prompts alone decide."""

from __future__ import annotations

import pytest
import torch

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.first_look import AT_ONCE, pooled
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.radius_sums import RadiusSums

PROMPTS = ("car", "red wheel", "a person on a horse", "sky", "tree")
SIDE = 128


@pytest.fixture(scope="module")
def looks(base, picture):
    predictor = Predictor(base, PROMPTS, SIDE)
    return predictor.first_look(predictor.encode(picture), range(len(PROMPTS)))


def test_spared_prompts_find_nothing_and_the_others_what_they_always_find(base, picture, looks):
    between = float(looks[0].sort().values[1:3].mean())
    exact = list(Predictor(base, PROMPTS, SIDE).predict(picture))
    found = list(Predictor(base, PROMPTS, SIDE, spare_below=between).predict(picture))
    spared = (looks[0] < between).tolist()
    assert sum(spared) == 2
    for is_spared, presence, one, other in zip(spared, looks[1].tolist(), found, exact, strict=True):
        if is_spared:
            assert one.presence == presence
            assert one.masks(9, 14).shape == (0, 9, 14)
            assert float(one.semantic_probabilities(9, 14).max()) == 0
        else:
            assert one.presence == pytest.approx(other.presence, abs=1e-5)
            torch.testing.assert_close(one.query_scores, other.query_scores, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(one.mask_logits, other.mask_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at_once", [1, 2, 32])
def test_first_looks_are_bitwise_the_same_for_any_number_of_prompts_at_once(base, picture, looks, at_once):
    predictor = Predictor(base, PROMPTS, SIDE, at_once)
    assert torch.equal(predictor.first_look(predictor.encode(picture), range(len(PROMPTS))), looks)


def test_more_prompts_than_a_pass_takes_come_in_order(base, picture, looks):
    predictor = Predictor(base, PROMPTS, SIDE)
    many = [*range(len(PROMPTS))] * (AT_ONCE // len(PROMPTS) + 1)
    found = predictor.first_look(predictor.encode(picture), many)
    torch.testing.assert_close(found, looks[:, many], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("adapter", [{"scheme": "A+B"}, {"scheme": "C"}, {"scheme": "P"}, {"sites": ["prompt"]}])
def test_the_first_look_is_the_adapted_model_s_own(model, randomized, picture, looks, adapter):
    adapted = randomized(hy.inject(model, hy.HyperETConfig(**adapter)))
    predictor = Predictor(adapted, PROMPTS, SIDE, spare_below=1.0)
    with RadiusSums(adapted) as probe:
        encoded, _ = predictor.encode(picture), predictor.text
        seen = {name: site.positions for name, site in probe.sites.items()}
        found = predictor.first_look(encoded, range(len(PROMPTS)))
        assert {name: site.positions for name, site in probe.sites.items()} == seen
    assert not torch.allclose(found, looks, atol=1e-5)
    assert all(len(one.boxes) == 0 for one in predictor.predict(encoded))


def test_incomplete_squares_are_averages_of_what_is_there():
    level = torch.arange(15.0).reshape(1, 1, 3, 5)
    features = {"backbone_fpn": [level, level], "vision_pos_enc": [level, level], "vision_features": level}
    found = pooled(features, 2)
    assert torch.equal(found["backbone_fpn"][0], level)
    assert found["vision_features"].flatten().tolist() == [3, 5, 6.5, 10.5, 12.5, 14]
    assert torch.equal(found["vision_pos_enc"][-1], found["backbone_fpn"][-1])


def test_a_threshold_that_is_no_probability_is_refused(base):
    with pytest.raises(ConfigError, match="spare_below=2; expected a probability"):
        Predictor(base, ["car"], SIDE, spare_below=2)
