"""Box exemplars: the predictor gives what SAM 3's own processor gives for boxes, alone or beside words."""

from __future__ import annotations

import pytest
import torch

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import BF16, FP32, VISUAL
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.exemplars import Exemplars, fractions
from sam3_hyperet.inference.grounding import Grounding
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.precision import autocast

SIDE = 128
ONE = Exemplars(((0.5, 0.4, 0.3, 0.2),))
SEVERAL = Exemplars(((0.3, 0.3, 0.2, 0.4), (0.7, 0.6, 0.5, 0.3), (0.2, 0.8, 0.1, 0.1)), (True, False, True))
ASKED = (("car", None), ("car", ONE), (VISUAL, SEVERAL), ("red wheel", SEVERAL))
CONFIGS = {
    "none": None,
    "A": {"scheme": "A"},
    "gates": {"sites": ["encoder_layer", "encoder_out", "prompt"], "gate": "prompt"},
}


def of_the_processor(model, picture, text, exemplars, precision=FP32):
    """What SAM 3's processor finds, above no threshold."""
    processor = host.Sam3Processor(model, resolution=SIDE, device="cpu", confidence_threshold=-1.0)
    with autocast(precision, "cpu"):
        state = processor.set_image(picture)
        if text != VISUAL:
            state = processor.set_text_prompt(text, state)
        for i, box in enumerate(exemplars.boxes if exemplars else ()):
            positive = exemplars.positive[i] if exemplars.positive else True
            state = processor.add_geometric_prompt(list(box), positive, state)
    return state


def adapted(model, randomized, config):
    if config is None:
        return model
    return randomized(hy.inject(model, hy.HyperETConfig.from_mapping(config)), scale=0.1)


@pytest.mark.parametrize("name", CONFIGS)
def test_boxes_give_what_the_processor_gives(model, picture, randomized, name):
    model, size = adapted(model, randomized, CONFIGS[name]), (picture.height, picture.width)
    texts = list(dict.fromkeys(text for text, _ in ASKED))
    asked, given = [texts.index(text) for text, _ in ASKED], [boxes for _, boxes in ASKED]
    expected = [of_the_processor(model, picture, *one) for one in ASKED]
    assert (expected[0]["scores"] - expected[1]["scores"]).abs().max() > 1e-3  # a box changes something
    for at_once in (1, 3):  # prompts with fewer boxes are padded
        found = list(Predictor(model, texts, SIDE, prompts_at_once=at_once).predict(picture, asked, given))
        for one, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(one.scores, theirs["scores"].reshape(-1), atol=1e-4, rtol=0)
            boxes = one.boxes * torch.tensor(size[::-1] * 2)
            torch.testing.assert_close(boxes, theirs["boxes"], atol=1e-2, rtol=0)
            masks = one.mask_probabilities(*size)
            torch.testing.assert_close(masks, theirs["masks_logits"][:, 0], atol=1e-4, rtol=0)


def test_in_bf16_boxes_give_what_the_processor_gives(base, picture):
    predictor = Predictor(base, [VISUAL], SIDE, precision=BF16)
    (found,) = predictor.predict(picture, [0], [SEVERAL])
    (exact,) = Predictor(base, [VISUAL], SIDE).predict(picture, [0], [SEVERAL])
    theirs = of_the_processor(base, picture, VISUAL, SEVERAL, BF16)
    torch.testing.assert_close(found.scores, theirs["scores"].float().reshape(-1), atol=1e-2, rtol=0)
    torch.testing.assert_close(found.scores, exact.scores, atol=2e-2, rtol=0)


def test_parts_that_are_not_sam_3_s_get_the_boxes(base, picture):
    class Other(type(base)):
        def forward_grounding(self, *args, **kwargs):
            return super().forward_grounding(*args, **kwargs)

    from sam3_hyperet.adapters.conversion import converted

    predictor = Predictor(base, ["car"], SIDE)
    encoded = {**predictor.encode(picture), **predictor.text}
    with torch.inference_mode():
        own, other = (Grounding(one, encoded).ground([0], [ONE])[0] for one in (base, converted(base, Other)))
    torch.testing.assert_close(own["pred_logits"], other["pred_logits"], atol=1e-5, rtol=1e-5)


def test_without_boxes_nothing_is_computed_in_another_way(base, picture):
    predictor = Predictor(base, ["car", "red wheel"], SIDE)
    plain, none = predictor.predict(picture), predictor.predict(picture, [0, 1], [None, None])
    for one, other in zip(plain, none, strict=True):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.mask_logits, other.mask_logits)


def test_mistakes(base, picture):
    predictor = Predictor(base, ["car"], SIDE, spare_below=0.1)
    with pytest.raises(ConfigError, match="2 exemplars for 1 prompts"):
        predictor.predict(picture, [0], [ONE, None])
    with pytest.raises(ConfigError, match="first looks do not see"):
        predictor.predict(picture, [0], [ONE])
    for box in ((0.5, 0.5, 0.0, 0.1), (0.9, 0.5, 0.4, 0.1), (float("nan"), 0.5, 0.1, 0.1), (50, 50, 20, 20)):
        with pytest.raises(ConfigError, match="as fractions of the image's sides"):
            Exemplars((box,))
    for boxes, positive in (((), ()), (ONE.boxes, (True, False))):
        with pytest.raises(ConfigError, match="expected one box or more, and as many values or none"):
            Exemplars(boxes, positive)


def test_pixels_become_fractions():
    assert Exemplars.in_pixels([[10, 20, 40, 60]], (200, 100), [False]) == Exemplars(((0.15, 0.5, 0.2, 0.6),), (False,))
    assert fractions([-10, 0, 40, 10], 100, 100) == (0.15, 0.05, 0.3, 0.1)  # cut at the border
    with pytest.raises(ConfigError, match="mostly outside its image of 100 × 50 pixels"):
        fractions([90, 40, 95, 45], 100, 50)  # corners, which were meant as a box
    for box in ([1, 2, 0, 4], [1, 2, 3], [1, 2, 3, float("inf")]):
        with pytest.raises(ConfigError, match="of an area above 0"):
            fractions(box, 100, 50)
