"""The demo's session: what a picture, a phrase and a move of the dial compute; its answers are the predictor's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from sam3_hyperet.demo.models import BASE, LEAST_SCORE, SAME, SIDE, Found, Models, Picture, distinct
from sam3_hyperet.demo.prompts import Ask
from sam3_hyperet.demo.session import Session
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.exemplars import Exemplars
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.masks import encode_masks
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.copies import adapted_copy
from sam3_hyperet.modeling.dial import set_dial

CAR, WHEEL, HOUSE = Ask("car"), Ask("wheel"), Ask("house", Exemplars(((0.5, 0.5, 0.4, 0.4),)))


def noise(seed: int) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    return Picture(f"noise {seed}", Image.fromarray(pixels).resize((140, 90)))


@pytest.fixture
def pair(base, copy_of, randomized):
    """A function from a configuration to a base and, on the same tensors, a model with random adapters."""

    def make(**config: object):
        own = copy_of(base)
        return own, randomized(adapted_copy(own, config)).eval()

    return make


def watch(*models) -> Counter[str]:
    """Counts of what runs, in all the models together: images in trunks, texts in encoders, prompts in decoders."""
    ran: Counter[str] = Counter()

    def count(part: str, size):
        return lambda module, inputs, output: ran.update({part: size(inputs, output)})

    for model in models:
        backbone = model.backbone
        backbone.vision_backbone.trunk.register_forward_hook(count("trunk", lambda inputs, output: 1))
        backbone.language_backbone.encoder.register_forward_hook(count("text", lambda inputs, output: len(inputs[0])))
        layer = model.transformer.decoder.layers[0]
        layer.register_forward_hook(count("decoder", lambda inputs, output: output[0].shape[1]))
    return ran


@pytest.mark.parametrize(
    ("config", "of_dial"),
    [
        ({"scheme": "A"}, {}),
        ({"sites": ["encoder_layer", "prompt"], "gate": "prompt"}, {}),
        ({"scheme": "P"}, {"trunk": 1}),
        ({"scheme": "none", "adapter": "bitfit"}, {"trunk": 1, "text": 2}),
    ],
    ids=["A", "B and prompt", "P", "bitfit"],
)
def test_only_what_must_be_is_computed(pair, config, of_dial):
    own, new = pair(**config)
    ran = watch(own, new)

    def since() -> dict[str, int]:
        found = dict(ran)
        ran.clear()
        return found

    with Models(own, {"new": new}, prompts_at_once=8) as models:
        session = Session(models)
        session.picture = noise(0)
        first = session.answer([CAR, WHEEL], "new", 1.0)
        assert since() == {"decoder": 4, "trunk": 1 + ("trunk" in of_dial), "text": 2 + of_dial.get("text", 0)}
        moved = session.answer([CAR, WHEEL], "new", 0.5)
        assert since() == {"decoder": 2, **of_dial}  # no text and no trunk, but where the adapters are in it
        more = session.answer([CAR, WHEEL, HOUSE], "new", 0.5)
        assert since() == {"decoder": 2, "text": 1 + ("text" in of_dial)}  # the new phrase, of both models
        back = session.answer([WHEEL], "new", 1.0)
        assert since() == {}
    assert (first.computed, moved.computed, more.computed, back.computed) == (4, 2, 2, 0)
    assert back.adapted[0] is first.adapted[1]
    assert moved.adapted[0].presence != first.adapted[0].presence


def test_answers_are_the_predictors(pair):
    own, new = pair(scheme="A+B")
    picture, asked = noise(1), [CAR, HOUSE, WHEEL]
    with Models(own, {"new": new}) as models:
        session = Session(models)
        session.picture = picture
        session.answer([WHEEL], "new", 1.0)
        answer = session.answer(asked, "new", 0.75)
    set_dial(new, 0.75)
    width, height = picture.shown_size
    assert max(width, height) == SIDE
    for model, found in ((own, answer.base), (new, answer.adapted)):
        predictor = Predictor(model, [ask.text for ask in asked], resolution(model))
        expected = predictor.predict(picture.image, exemplars=[ask.exemplars for ask in asked])
        for one, prediction in zip(found, expected, strict=True):
            best = prediction.detections(height, width, None, score_threshold=LEAST_SCORE)
            assert one.presence == pytest.approx(prediction.presence, abs=1e-6)
            np.testing.assert_allclose(one.scores, best.scores, atol=1e-6)
            np.testing.assert_allclose(one.boxes, best.boxes, atol=1e-3)
            assert one.radii.shape == (16, 16)


def test_sessions_share_nothing_but_features(pair):
    own, new = pair(scheme="B")
    ran = watch(own, new)
    with Models(own, {"new": new}, pictures=2) as models:
        one, other = Session(models), Session(models)
        one.picture, other.picture = noise(0), noise(1)
        before = one.answer([CAR], "new", 1.0)
        other.answer([CAR], "new", 0.25)
        assert ran["trunk"] == 2
        again = one.answer([CAR, WHEEL], "new", 1.0)  # the dial that the other set is not this one's
        assert again.adapted[0] is before.adapted[0]
        fresh = Session(models)
        assert fresh.picture is None
        fresh.picture = noise(0)
        assert fresh.answer([CAR], "new", 1.0).adapted[0].scores == before.adapted[0].scores
        assert ran["trunk"] == 2
        one.picture = noise(1)
        assert one.answer([CAR], "new", 1.0).computed == 2
        one.picture = noise(2)
        one.answer([CAR], "new", 1.0)
        assert len(models._encoded) <= 4


def test_a_phrase_that_cannot_be_read_is_an_error_and_no_answer_is_lost(pair):
    own, new = pair(scheme="B")
    with Models(own, {"new": new}) as models:
        session = Session(models)
        session.picture = noise(0)
        session.answer([CAR], "new", 1.0)
        with pytest.raises(ConfigError, match=r"has \d+ tokens; SAM 3 reads 30"):
            session.answer([CAR, Ask("very " * 40)], "new", 1.0)
        assert session.answer([CAR], "new", 1.0).computed == 0


def test_too_little_memory_is_an_error_of_the_user(pair, monkeypatch):
    own, new = pair(scheme="B")

    def full(*args: object, **options: object):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Predictor, "encode", full)
    with Models(own, {"new": new}) as models, pytest.raises(ConfigError, match="too little memory for 1 prompt"):
        models.find(BASE, 0.0, noise(0), [CAR], (14, 9))


def test_what_a_better_mask_covers_is_not_distinct():
    masks = np.zeros((4, 8, 8), bool)
    masks[0, :4], masks[1, :4, :7], masks[2, 4:], masks[3, :2] = True, True, True, True
    found = Found(1.0, (0.9, 0.8, 0.7, 0.3), np.zeros((4, 4)), tuple(encode_masks(masks)), None)
    assert distinct(found, 0.5) == [0, 2]
    assert SAME <= 0.5
    assert distinct(found, 0.95) == []
