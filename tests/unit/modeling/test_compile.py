"""torch.compile takes what is injected as one graph, and torch.export an injected image encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sam3_hyperet as hy


@pytest.fixture
def adapted(model, randomized):
    torch._dynamo.reset()
    yield randomized(hy.inject(model, hy.HyperETConfig(scheme="A+B+C+P")), scale=0.05)
    torch._dynamo.reset()


class ImageEncoder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.backbone = model.backbone

    def forward(self, images):
        return tuple(self.backbone.forward_image(images)["backbone_fpn"])


@torch.no_grad()
def test_an_injected_encoder_layer_compiles_as_one_graph(adapted):
    layer = adapted.transformer.encoder.layers[0]
    call = {
        "tgt": torch.randn(1, 64, 64),
        "memory": torch.randn(1, 5, 64),
        "query_pos": torch.randn(1, 64, 64),
        "memory_key_padding_mask": torch.tensor([[False, False, False, True, True]]),
    }
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(**call), layer(**call), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_an_fpn_adjustment_compiles_as_one_graph(adapted):
    adjustment = adapted.backbone.fpn_adjustment
    pyramid = [torch.randn(1, 64, 32, 32), torch.randn(1, 64, 16, 16)]
    compiled = torch.compile(adjustment, fullgraph=True, backend="aot_eager")
    for x, y in zip(compiled(pyramid), adjustment(pyramid), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("strict", [False, True])
def test_an_injected_image_encoder_exports(adapted, strict):
    encoder = ImageEncoder(adapted).eval()
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    expected = encoder(image)  # SAM 3 fills its cache of position encodings, which an export would warn about
    program = torch.export.export(encoder, (torch.randn(1, 3, 128, 128),), strict=strict)
    for x, y in zip(program.module()(image), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
