"""What prompts share changes no answer: against SAM 3's own forward pass, with any adapter, and with unknown parts."""

from __future__ import annotations

import gc
import json
import logging
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.inference import grounding
from sam3_hyperet.inference.mask_head import MaskHead, enlarged_convolution, enlarging_weight
from sam3_hyperet.inference.predictor import Predictor

PROMPTS = ("car", "red wheel", "a person on a horse", "sky")
SIDE = 128
CONFIGS = {
    "none": None,
    **{scheme: {"scheme": scheme} for scheme in ("A", "B", "C", "P", "A+B")},
    **{site: {"sites": [site]} for site in ("prompt", "encoder_out", "pixel_decoder")},
    "one level": {"sites": ["pixel_decoder"], "levels": [0]},
    "shared gyro": {"sites": ["fpn", "pixel_decoder"], "geometry": "gyro", "share": True},
    "lora": {"adapter": "lora", "scheme": "A"},
    "bitfit": {"adapter": "bitfit", "biases": ["encoder", "segmentation_head"]},
}


def stock_answers(model, picture, prompts=PROMPTS):
    """What SAM 3's processor finds for each prompt, above no threshold."""
    processor = host.Sam3Processor(model, resolution=SIDE, device="cpu", confidence_threshold=-1.0)
    state = processor.set_image(picture)
    for prompt in prompts:
        yield dict(processor.set_text_prompt(prompt, state))


def assert_equal_detections(model, picture, prompts=PROMPTS, **options):
    """Scores, boxes and probabilities to 1e-4, and the IoU of masks but for pixels at the threshold."""
    size = picture.height, picture.width
    answers = Predictor(model, prompts, SIDE, **options).predict(picture)
    for answer, found in zip(answers, stock_answers(model, picture, prompts), strict=True):
        torch.testing.assert_close(answer.scores, found["scores"].reshape(-1), atol=1e-4, rtol=0)
        torch.testing.assert_close(answer.boxes * torch.tensor(size[::-1] * 2), found["boxes"], atol=1e-2, rtol=0)
        expected = found["masks_logits"][:, 0]
        torch.testing.assert_close(answer.mask_probabilities(*size), expected, atol=1e-4, rtol=0)
        masks, theirs = answer.masks(*size), found["masks"][:, 0].numpy()
        clear = ((expected - 0.5).abs() > 1e-5).numpy()
        both, either = ((op(masks, theirs) & clear).sum((1, 2)) for op in (np.logical_and, np.logical_or))
        assert (both >= (1 - 1e-4) * either).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_answers_are_those_of_the_stock_forward(model, picture, randomized, name):
    if CONFIGS[name] is not None:
        before = next(iter(Predictor(model, PROMPTS, SIDE).predict(picture))).mask_logits
        randomized(hy.inject(model, hy.HyperETConfig.from_mapping(CONFIGS[name])), scale=0.1)
        after = next(iter(Predictor(model, PROMPTS, SIDE).predict(picture))).mask_logits
        assert (after - before).abs().max() > 1e-3  # the adapter is in the way that is tested
    for at_once in (1, 3):
        assert_equal_detections(model, picture, prompts_at_once=at_once)


def test_the_semantic_map_is_that_of_the_stock_forward(base, picture):
    predictor = Predictor(base, PROMPTS, SIDE)
    with torch.inference_mode():
        out = base.forward_grounding(
            backbone_out={**predictor.encode(picture), **predictor.text},
            find_input=host.FindStage(torch.zeros(4, dtype=torch.long), torch.arange(4), *[None] * 5),
            find_target=None,
            geometric_prompt=base._get_dummy_prompt(4),
        )
    for answer, expected in zip(predictor.predict(picture), out["semantic_seg"][:, 0], strict=True):
        torch.testing.assert_close(answer.semantic_logits, expected, atol=1e-5, rtol=1e-5)


def test_switched_off_adapters_are_the_base(base, model, picture, randomized):
    randomized(hy.inject(model, hy.HyperETConfig.from_mapping({"sites": ["fpn", "pixel_decoder", "encoder_out"]})))
    with hy.adapters_disabled(model):
        found = list(Predictor(model, PROMPTS, SIDE).predict(picture))
        for answer, expected in zip(found, Predictor(base, PROMPTS, SIDE).predict(picture), strict=True):
            assert torch.equal(answer.mask_logits, expected.mask_logits)
            assert torch.equal(answer.scores, expected.scores)


def test_real_pictures_on_the_packaged_weights(shared_data):
    model = hy.build_model("tiny")
    annotations = json.loads(next((shared_data / "coco" / "annotations").glob("instances_val*.json")).read_text())
    prompts = [category["name"] for category in annotations["categories"]][::9]
    files = sorted((shared_data / "coco").glob("val*/*.jpg"))[:2]
    assert len(files) == 2
    for file in files:
        with Image.open(file) as picture:
            assert picture.width != picture.height
            assert_equal_detections(model, picture.convert("RGB"), prompts)


class OwnHead(host.UniversalSegmentationHead):
    pass


class OwnModel(host.Sam3Image):
    def forward_grounding(self, **kwargs):
        out = super().forward_grounding(**kwargs)
        out["pred_logits"] = out["pred_logits"] + 1
        return out


class OwnEncoder(host.TransformerEncoderFusion):
    pass


@pytest.mark.parametrize(
    ("part", "own", "message"),
    [
        ("segmentation_head", OwnHead, "the segmentation head is not as SAM 3 builds it"),
        ("transformer.encoder", OwnEncoder, "the fusion encoder is not as SAM 3 builds it"),
        ("", OwnModel, "OwnModel grounds prompts in its own way"),
    ],
)
def test_what_is_unknown_is_run_as_it_is(model, picture, caplog, part, own, message):
    grounding._log_once.cache_clear()
    model.get_submodule(part).__class__ = own
    with caplog.at_level(logging.INFO, logger="sam3_hyperet"):
        assert_equal_detections(model, picture)
    assert caplog.text.count(message) == 1


def test_pyramids_of_another_scale_are_decoded_as_they_are(model, picture):
    convolutions = model.backbone.vision_backbone.convs
    convolutions[0] = convolutions[1]  # the same size twice: nothing is enlarged
    assert_equal_detections(model, picture)


def test_the_model_is_left_as_it_was(base, picture):
    before = [(name, type(module), id(module)) for name, module in base.named_modules()]
    next(Predictor(base, PROMPTS, SIDE).predict(picture))
    assert [(name, type(module), id(module)) for name, module in base.named_modules()] == before


@settings(max_examples=30, deadline=None)
@given(sizes=st.tuples(*[st.integers(1, 5)] * 4), batch=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_the_convolution_of_an_enlarged_map(sizes, batch, seed):
    height, width, channels_in, channels_out = sizes
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, weight = draw(batch, channels_in, height, width), draw(channels_out, channels_in, 3, 3)
    plus = draw(1, channels_out, 2 * height, 2 * width)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, padding=1) + plus
    torch.testing.assert_close(enlarged_convolution(x, enlarging_weight(weight), plus), expected)


def test_pixel_embeddings_are_not_kept_as_long_as_predictions(base, picture, monkeypatch):
    """85 MB a prompt at 1008 pixels."""
    made, pixels = [], MaskHead.pixels

    def noted(*arguments):
        found = pixels(*arguments)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(MaskHead, "pixels", noted)
    answers = list(Predictor(base, PROMPTS, SIDE, prompts_at_once=4).predict(picture))
    masks = [(answer.mask_logits, answer.semantic_logits) for answer in answers]
    assert (len(masks), len(made)) == (4, 4)  # once a prompt
    gc.collect()
    assert sum(one() is not None for one in made) == 1
