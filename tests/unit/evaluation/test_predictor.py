"""The predictor gives what SAM 3's own processor gives, however many prompts it asks at once."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.predictor import Predictor, check_prompts

PROMPTS = ("car", "red wheel", "a person on a horse", "sky", "tree")
SIDE = 128


@pytest.fixture(scope="module")
def answers(base, picture):
    return list(Predictor(base, PROMPTS, SIDE).predict(picture))


def test_the_answers_are_those_of_the_official_processor(base, picture, answers):
    processor = host.Sam3Processor(base, resolution=SIDE, device="cpu", confidence_threshold=0.0)
    state = processor.set_image(picture)
    assert picture.width != picture.height
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        found = processor.set_text_prompt(prompt, state)
        torch.testing.assert_close(answer.scores, found["scores"].reshape(-1), atol=1e-5, rtol=1e-5)
        pixels = answer.boxes * torch.tensor([picture.width, picture.height] * 2)
        torch.testing.assert_close(pixels, found["boxes"], atol=1e-3, rtol=1e-5)
        probabilities = answer.mask_probabilities(picture.height, picture.width)
        assert probabilities.shape == (12, picture.height, picture.width)
        torch.testing.assert_close(probabilities, found["masks_logits"][:, 0], atol=1e-5, rtol=1e-5)
        assert torch.equal(probabilities > 0.5, found["masks"][:, 0])


def test_prompts_differ_and_come_in_order(base, picture, answers):
    assert len({round(float(answer.scores.sum()), 5) for answer in answers}) == len(PROMPTS)
    backwards = list(Predictor(base, PROMPTS[::-1], SIDE).predict(picture))
    for one, other in zip(answers, backwards[::-1], strict=True):
        torch.testing.assert_close(one.query_scores, other.query_scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 2])
def test_the_number_of_prompts_at_once_changes_nothing(base, picture, answers, at_once):
    for one, other in zip(answers, Predictor(base, PROMPTS, SIDE, at_once).predict(picture), strict=True):
        assert one.presence == pytest.approx(other.presence, abs=1e-5)
        for name in ("query_scores", "boxes", "mask_logits", "semantic_logits"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-5)


def test_top_and_above_choose_queries(answers):
    answer = answers[0]
    order = answer.query_scores.sort(descending=True).values
    assert torch.equal(answer.top(3).query_scores, order[:3])
    assert torch.equal(answer.top(99).query_scores, order)
    for kept in (answer.above(float(order[4])), answer.top(5)):
        assert [len(x) for x in (kept.query_scores, kept.boxes, kept.mask_logits)] == [5] * 3
    best = int(answer.query_scores.argmax())
    assert torch.equal(answer.top(1).mask_logits[0], answer.mask_logits[best])
    assert torch.equal(answer.top(1).boxes[0], answer.boxes[best])
    nothing = answer.above(1.1)
    assert nothing.mask_probabilities(7, 9).shape == (0, 7, 9)
    assert nothing.semantic_probabilities(7, 9).shape == (7, 9)
    torch.testing.assert_close(answer.scores, answer.query_scores * answer.presence)


def test_tiny_and_narrow_pictures(base):
    for size in ((1, 1), (3, 200)):
        (answer,) = Predictor(base, ["car"], SIDE).predict(Image.new("RGB", size))
        assert answer.mask_probabilities(*size[::-1]).shape == (12, *size[::-1])
        assert answer.query_scores.isfinite().all()


def test_impossible_vocabularies_are_refused(base):
    for prompts, message in (
        ([], "there is no prompt"),
        (["car", ""], "the prompt '' is empty"),
        (["  \t"], "is empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            Predictor(base, prompts, SIDE)
    for at_once in (0, -1, 1.5):
        with pytest.raises(ConfigError, match=f"prompts_at_once={at_once}; expected an integer from 1"):
            Predictor(base, ["car"], SIDE, at_once)


def test_a_prompt_that_sam3_would_cut_is_refused(base):
    """30 words of one token, with the start and the end, are all that the text encoder reads."""
    encoder = base.backbone.language_backbone
    most = host.CONTEXT_LENGTH - 2
    longest = " ".join(["car"] * most)
    assert len(encoder.tokenizer.encode(longest)) == most
    check_prompts(base, [longest])
    whole, cut = (
        encoder.tokenizer([text], context_length=host.CONTEXT_LENGTH)[0] for text in (longest, longest + " x")
    )
    assert torch.equal(whole, cut)  # it drops the word without a warning
    with pytest.raises(ConfigError, match=rf"the prompt 'car .* dog' has {most + 1} tokens; SAM 3 reads {most}"):
        check_prompts(base, ["sky", longest + " dog"])
    assert encoder.context_length == host.CONTEXT_LENGTH
