"""The predictor gives what SAM 3's own processor gives, however many prompts it asks at once."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from answers import answers as stock
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.mask_head import MaskHead
from sam3_hyperet.inference.prediction import PromptDetections
from sam3_hyperet.inference.predictor import (
    Predictor,
    PromptPrediction,
    affordable_prompts,
    bytes_per_prompt,
    check_prompts,
)
from sam3_hyperet.inference.tiled_prediction import TiledPrediction
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.masks import decode

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
        masks = answer.masks(picture.height, picture.width)
        differ = masks != found["masks"][:, 0].numpy()
        assert 0 < masks.mean() < 1
        assert np.abs(found["masks_logits"][:, 0].numpy()[differ] - 0.5).max(initial=0) < 1e-5


@pytest.mark.parametrize("sites", [None, ["encoder_layer", "prompt", "pixel_decoder"]])
def test_features_are_those_of_the_stock_forward(model, picture, randomized, sites):
    """Of each place, for each prompt, also behind adjustments; they stay with the queries that are kept."""
    if sites:
        randomized(hy.inject(model, hy.HyperETConfig(sites=sites)), scale=0.05)
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output}))
        for name, module in (("encoder", model.transformer.encoder), ("pixels", model.segmentation_head.pixel_decoder))
    ]
    with torch.inference_mode():
        text = model.backbone.forward_text(list(PROMPTS), device=torch.device("cpu"))
        stock(model, picture, PROMPTS)
    for hook in hooks:
        hook.remove()
    answers = list(Predictor(model, PROMPTS, SIDE, prompts_at_once=2).predict(picture))
    for k, answer in enumerate(answers):
        found = {place: compute() for place, compute in answer.top(2).features.items()}
        words = ~text["language_mask"][k]
        memory = seen["encoder"]["memory"][:, k]
        expected = text["language_features"][words, k].mean(dim=0)
        torch.testing.assert_close(found["text"][:, 0, 0], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found["encoder"].flatten(1).T, memory, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found["pixels"], seen["pixels"][k], atol=1e-4, rtol=1e-4)


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


def test_a_large_vocabulary_is_encoded_in_parts(base, picture, monkeypatch):
    prompts = ["car", "dog", "house", "tree", "a small red boat"]
    whole = Predictor(base, prompts, 128)
    monkeypatch.setattr("sam3_hyperet.inference.predictor._TEXTS_AT_ONCE", 2)
    parts = Predictor(base, prompts, 128)
    assert parts.text.keys() == {"language_features", "language_mask"}  # SAM 3's embeddings are read by nothing
    for key, features in whole.text.items():
        torch.testing.assert_close(parts.text[key], features)
    chosen = [found.presence for found in parts.predict(picture, [4, 1])]
    every = [found.presence for found in whole.predict(picture)]
    assert chosen == pytest.approx([every[4], every[1]], abs=1e-6)


def test_top_and_above_choose_queries(answers):
    answer = answers[0]
    order = answer.query_scores.sort(descending=True).values
    assert torch.equal(answer.top(3).query_scores, order[:3])
    assert torch.equal(answer.top(99).query_scores, order)
    for kept in (answer.above(float(order[4])), answer.top(5)):
        assert [len(x) for x in (kept.query_scores, kept.boxes, kept.mask_logits)] == [5] * 3
    best = int(answer.query_scores.argmax())
    torch.testing.assert_close(answer.top(1).mask_logits[0], answer.mask_logits[best], atol=1e-5, rtol=1e-5)
    assert torch.equal(answer.top(1).boxes[0], answer.boxes[best])
    nothing = answer.above(1.1)
    assert nothing.mask_logits.shape[0] == 0
    assert nothing.masks(7, 9).shape == (0, 7, 9)
    assert nothing.mask_probabilities(7, 9).shape == (0, 7, 9)
    assert nothing.semantic_probabilities(7, 9).shape == (7, 9)
    torch.testing.assert_close(answer.scores, answer.query_scores * answer.presence)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_masks_are_the_probabilities_that_reach_the_threshold(answers, threshold):
    for height, width in ((90, 140), (20, 11), (1, 1)):
        probabilities = answers[0].mask_probabilities(height, width).numpy()
        differ = answers[0].masks(height, width, threshold) != (probabilities >= threshold)
        assert np.abs(probabilities[differ] - threshold).max(initial=0) < 1e-6


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_areas_are_those_of_the_masks_which_are_not_held_together(threshold, monkeypatch):
    height, width, scores = 300, 400, torch.linspace(0.9, 0.1, 20)
    logits = torch.randn(20, 16, 16, generator=torch.Generator().manual_seed(0))
    answer = PromptPrediction(scores, torch.zeros(20, 4), logits, logits[0], 1.0)
    expected = answer.masks(height, width, threshold).sum(axis=(1, 2), dtype=float)
    monkeypatch.setattr(PromptPrediction, "masks", lambda *_: pytest.fail("masks are held"))
    found = answer.detections(height, width, mask_threshold=threshold)
    tracemalloc.start()
    areas = found.areas(20)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(areas, expected)
    assert most < 7 * height * width  # the enlarged logits of one mask and the mask
    assert found.areas(3).tolist() == expected[:3].tolist()
    assert answer.above(1.1).areas(height, width).tolist() == []
    monkeypatch.undo()
    found.rles(20)
    np.testing.assert_array_equal(found.areas(20), expected)


@pytest.mark.parametrize("threshold", [0.2, 0.9])
def test_detections_are_from_both_thresholds(threshold):
    """A score with the presence in it, and a probability of each pixel; of one tile as of the image."""
    logits = torch.linspace(-4, 4, 12).reshape(3, 4) + torch.tensor([0.0, 0.5, 1.0])[:, None, None]
    answer = PromptPrediction(torch.tensor([0.6, 0.9, 0.7]), torch.zeros(3, 4), logits, logits[0], 0.5)
    expected = answer.keep(torch.tensor([1, 2])).masks(6, 8, threshold)
    assert 0 < expected.sum() < expected.size
    tiled = TiledPrediction(Tiling().grid(8, 6), [answer])
    for found in (answer.detections(6, 8, 100, threshold, 0.33), tiled.detections(6, 8, 100, threshold, 0.33)):
        assert found.scores.tolist() == pytest.approx([0.45, 0.35])
        assert np.array_equal([decode(rle) for rle in found.rles(2)], expected)
        assert found.areas(2).tolist() == expected.sum((1, 2)).tolist()


def test_masks_are_decoded_for_the_queries_that_are_kept_and_when_asked_for():
    asked = []
    logits = torch.arange(24.0).reshape(6, 2, 2)

    def decode(queries):
        asked.append(queries.tolist())
        return logits[queries]

    scores = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2, 0.7])
    answer = PromptPrediction(scores, torch.zeros(6, 4), decode, lambda: pytest.fail("not asked for"), 1.0)
    best = answer.top(4).above(0.5)
    assert best.query_scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert asked == []
    assert torch.equal(best.mask_logits, logits[[1, 3, 5]])
    assert best.mask_probabilities(4, 4).shape == (3, 4, 4)
    assert asked == [[1, 3, 5]]


def test_a_prompt_without_a_detection_of_min_score_is_not_decoded(base, picture, answers, monkeypatch):
    best = sorted(float(answer.scores.max()) for answer in answers)
    between = (best[1] + best[2]) / 2
    decoded = []
    pixels = MaskHead.pixels
    monkeypatch.setattr(MaskHead, "pixels", lambda *args: decoded.append(1) or pixels(*args))
    found = list(Predictor(base, PROMPTS, SIDE, min_score=between).predict(picture))
    masks = [answer.masks(9, 14) for answer in found]
    assert len(decoded) == sum(len(of_prompt) > 0 for of_prompt in masks) == 3
    for answer, exact in zip(found, answers, strict=True):
        assert answer.presence == pytest.approx(exact.presence, abs=1e-5)
        assert len(answer.boxes) == (len(exact.boxes) if exact.scores.max() >= between else 0)


def test_half_precision_is_close_and_off_by_default(base, picture, answers):
    mixed = list(Predictor(base, PROMPTS, SIDE, precision="bf16-mixed").predict(picture))
    for answer, exact in zip(mixed, answers, strict=True):
        assert answer.query_scores.dtype == answer.boxes.dtype == torch.float32
        assert answer.mask_probabilities(9, 14).dtype == answer.semantic_probabilities(9, 14).dtype == torch.float32
        assert answer.presence != float(torch.tensor(answer.presence).bfloat16())  # its sigmoid is of fp32
        difference = (answer.scores - exact.scores).abs().max()
        assert 0 < difference < 0.05
        assert answer.masks(9, 14).shape == (12, 9, 14)


def test_prompts_at_once_follow_the_memory(base, monkeypatch):
    device = torch.device("cpu")
    assert affordable_prompts(base, SIDE, device) > affordable_prompts(base, 8 * SIDE, device) >= 1
    assert affordable_prompts(base, 64 * SIDE, device) == 1
    properties = SimpleNamespace(total_memory=20 * bytes_per_prompt(base, SIDE))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert affordable_prompts(base, SIDE, torch.device("cuda")) == 5


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
    for at_once in (-1, 1.5):
        with pytest.raises(ConfigError, match=f"prompts_at_once={at_once}; expected an integer from 0"):
            Predictor(base, ["car"], SIDE, at_once)
    with pytest.raises(ConfigError, match="min_score=2; expected a probability"):
        Predictor(base, ["car"], SIDE, min_score=2)
    with pytest.raises(ConfigError, match="precision='half' is unknown; expected one of auto, 32-true, tf32"):
        Predictor(base, ["car"], SIDE, precision="half")


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


class Waits(TorchDispatchMode):
    """Counts the operations for which a host waits for its device."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return operation(*args, **(kwargs or {}))


def test_the_device_is_not_waited_for_at_each_prompt(base, picture):
    counts = []
    for prompts in (PROMPTS[:1], PROMPTS):
        predictor = Predictor(base, prompts, SIDE, len(prompts), min_score=0.01)
        encoded = predictor.encode(picture)
        list(predictor.predict(encoded))  # text features, and what SAM 3 caches
        with Waits() as waits:
            found = [PromptDetections(one, 9, 14) for one in predictor.predict(encoded)]
        assert len(found) == len(prompts)
        counts.append(waits.count - sum(one.confident >= 0 for one in found))  # one is for the scores themselves
    assert counts[0] == counts[1]
