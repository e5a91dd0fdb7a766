"""A frozen text encoder runs once a prompt, and what it gives depends on that prompt alone."""

from __future__ import annotations

import pytest
import torch

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.training import text_features
from sam3_hyperet.training.stages import set_training_mode
from sam3_hyperet.training.text_features import text_features_once


@pytest.fixture
def encoded(monkeypatch):
    """The texts that text encoders got, run by run."""
    seen: list[list[str]] = []
    forward = host.VETextEncoder.forward

    def noted(self, text, *options, **named):
        seen.append(list(text))
        return forward(self, text, *options, **named)

    monkeypatch.setattr(host.VETextEncoder, "forward", noted)
    return seen


def features(model, *texts):
    return model.backbone.forward_text(list(texts), device=torch.device("cpu"))


@pytest.fixture
def frozen(model):
    model.backbone.language_backbone.requires_grad_(False)
    return model


def test_a_prompt_is_encoded_once_and_by_itself(frozen, encoded):
    expected = features(frozen, "car", "a red house", "sky")
    names = list(frozen.state_dict())
    encoded.clear()
    with text_features_once(frozen):
        first = features(frozen, "a red house")
        found = features(frozen, "car", "a red house", "sky")
        assert encoded == [["a red house"], ["car"], ["sky"]]
        assert list(frozen.state_dict()) == names
    with text_features_once(frozen):  # as a run that goes on would come to them
        again = features(frozen, "sky", "a red house")
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-6)
        assert found[name].shape == values.shape
    assert torch.equal(first["language_features"][:, 0], found["language_features"][:, 1])
    assert torch.equal(again["language_features"], found["language_features"][:, [2, 1]])
    assert type(frozen.backbone.language_backbone) is host.VETextEncoder


@pytest.mark.parametrize("sites", [["fpn"], ["prompt"]])
def test_a_step_is_the_same_whether_it_is_kept_or_not(model, randomized, make_batch, sites):
    """The site `prompt` adjusts what is kept, and trains; what a prediction has kept serves a step as well."""
    randomized(hy.inject(model, hy.HyperETConfig(sites=tuple(sites))), scale=0.1)
    hy.set_stage(model, 1)
    batch = make_batch([("car", [(20, 20, 80, 70)]), ("sky", [])])

    def gradients():
        set_training_mode(model)
        total = GroundingLoss(model)(model, batch, model(batch))[TOTAL]
        return total.detach(), torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad])

    expected = gradients()
    with text_features_once(model), shared_encoding([model]):
        Predictor(model, ["sky", "car"], 128).text
        for _ in range(2):
            found = gradients()
            torch.testing.assert_close(found[0], expected[0], rtol=2e-6, atol=0)
            for one, other in zip(found[1], expected[1], strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=2e-4 * float(other.abs().max()))


def test_nothing_stale(frozen, encoded):
    """An encoder that trains runs each time and forgets; so do loaded weights; precisions are kept apart."""
    resizer = frozen.backbone.language_backbone.resizer
    weights = {name: value + 0.1 for name, value in resizer.state_dict().items()}
    with text_features_once(frozen):
        before = features(frozen, "car")["language_features"]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = [features(frozen, "car")["language_features"] for _ in range(2)]
        assert len(encoded) == 2
        assert rounded[1].dtype == torch.bfloat16
        resizer.load_state_dict(weights)
        loaded = features(frozen, "car")["language_features"]
        assert (loaded - before).abs().max() > 0.05
        frozen.backbone.language_backbone.requires_grad_(True)
        for gradients in (True, False):
            with torch.inference_mode(not gradients):
                features(frozen, "car")
                features(frozen, "car")
        assert len(encoded) == 7
        frozen.backbone.language_backbone.requires_grad_(False)
        features(frozen, "car")
        assert len(encoded) == 8


def test_memory_is_bounded_and_adapters_in_the_encoder_are_left_alone(frozen, encoded, monkeypatch):
    monkeypatch.setattr(text_features, "MOST_PROMPTS", 2)
    with text_features_once(frozen):
        features(frozen, "car", "sky", "tree")
        features(frozen, "sky", "tree")
        assert len(encoded) == 3
        features(frozen, "car")
        features(frozen, "tree")
        assert encoded[3:] == [["car"]]
    hy.inject(frozen, {"adapter": "lora", "sites": ["prompt"]})
    with text_features_once(frozen):
        assert type(frozen.backbone.language_backbone) is host.VETextEncoder
