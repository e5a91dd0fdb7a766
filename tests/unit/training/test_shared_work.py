"""Prompts that share what belongs to their image: the same loss and gradients, in less work."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from micro_model import micro_base
from torch.utils._python_dispatch import TorchDispatchMode

import sam3_hyperet as hy
from sam3_hyperet.inference.mask_head import MaskHead
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import set_training_mode


@pytest.fixture(scope="module")
def base():
    return micro_base()


ONE = [("car", [(20, 20, 80, 70)]), ("sky", []), ("red house", [(5, 60, 60, 120), (70, 70, 120, 120)])]
OTHER = [("tree", [(30, 30, 90, 90)]), ("sky", [(0, 0, 128, 30)])]
CONFIGS = {
    "A": {"scheme": "A"},
    "all": {"sites": ["fpn", "encoder_layer", "attention", "pixel_decoder", "encoder_out", "prompt"]},
}


def step(model, batch, checkpointing=False):
    """The loss of a batch, and the gradient of what trains."""
    set_training_mode(model, checkpoint_activations=checkpointing)
    total = GroundingLoss(model, LossOptions())(model, batch, model(batch))[TOTAL]
    return total.detach(), torch.autograd.grad(
        total, [p for p in model.parameters() if p.requires_grad], materialize_grads=True
    )


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=2e-6, atol=0)
    scale = max(float(gradient.abs().max()) for gradient in expected[1])
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * scale)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("pictures", [[ONE], [OTHER[:1]], [ONE, OTHER]], ids=["one", "single prompt", "two"])
def test_loss_and_gradients_are_the_same(model, randomized, make_batch, name, pictures):
    randomized(hy.inject(model, hy.HyperETConfig.from_mapping(CONFIGS[name])), scale=0.1)
    hy.set_stage(model, 1)
    batch = make_batch(*pictures)
    expected = step(model, batch)
    names, modules = list(model.state_dict()), [id(module) for module in model.modules()]
    with shared_work(model):
        assert list(model.state_dict()) == names
        assert_same(step(model, batch), expected)
    assert [id(module) for module in model.modules()] == modules


def test_what_belongs_to_the_image_is_computed_once(model, make_batch):
    """The self-attention runs on a row an image, the convolution of the pyramid's level as well."""
    hy.set_stage(hy.inject(model, {"scheme": "A"}), 1)
    rows, maps = [], []
    for convolution in model.segmentation_head.pixel_decoder.conv_layers:
        convolution.register_forward_pre_hook(lambda _, inputs: maps.append(len(inputs[0])))
    with shared_work(model):
        model.transformer.encoder.layers[0].self_attn.register_forward_pre_hook(lambda _, x: rows.append(len(x[0])))
        for pictures in ([ONE], [OTHER, ONE], [ONE[:1]]):
            step(model, make_batch(*pictures))
    assert rows == [1, 2, 1]
    assert maps == [1, 2, 1]  # of a single prompt: the sum of both


def test_what_trains_itself_is_left_alone(model, make_batch, monkeypatch):
    """Dropout of the attention draws for each prompt; a convolution that trains is SAM 3's own."""
    hy.set_stage(hy.inject(model, {"scheme": "A"}), 2, ("segmentation_head.pixel_decoder", "transformer.encoder"))
    batch, rows = make_batch(ONE), []
    expected = step(model, batch)
    with shared_work(model):
        model.transformer.encoder.layers[0].self_attn.register_forward_pre_hook(lambda _, x: rows.append(len(x[0])))
        monkeypatch.setattr(MaskHead, "pixels", lambda *_: pytest.fail("shared"))
        assert_same(step(model, batch), expected)
    assert rows == [len(ONE)]


def test_frozen_projections_of_several_prompts_are_products_of_matrices(model, make_batch):
    hy.set_stage(hy.inject(model, {"scheme": "A"}), 1)
    weight = model.transformer.encoder.layers[1].self_attn.in_proj_weight
    batch, counts = make_batch(ONE), []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            counts[-1] += function is torch.ops.aten.bmm.default and arguments[1].shape[1:] == (len(weight) // 3,) * 2
            return function(*arguments, **(options or {}))

    for context in (nullcontext(), shared_work(model)):
        counts.append(0)
        with context, Count():
            step(model, batch)
    assert counts[0] > 20
    assert counts[1] < counts[0] / 3  # what is left are other products


def test_checkpointing_and_autocast(model, randomized, make_batch):
    randomized(hy.inject(model, {"scheme": "A+C"}), scale=0.1)
    hy.set_stage(model, 1)
    batch = make_batch(ONE, OTHER)
    expected = step(model, batch)
    with shared_work(model):
        assert_same(step(model, batch, checkpointing=True), expected)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = step(model, batch)
    torch.testing.assert_close(rounded[0], expected[0], rtol=0.02, atol=0)


def test_biases_of_boxes_lie_as_the_decoder_adds_them(model):
    """Heads before positions: laid out in another way, the sum of both would be copied for each layer."""
    decoder, offsets = model.transformer.decoder, torch.randn(2, 6, 8, 2)
    embeddings = decoder.boxRPB_embed_x, decoder.boxRPB_embed_y
    expected = [embedding(offsets) for embedding in embeddings]
    with shared_work(model):
        found = [embedding(offsets) for embedding in embeddings]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
        assert not other.movedim(-1, 1).is_contiguous()
        assert one.movedim(-1, 1).is_contiguous()
