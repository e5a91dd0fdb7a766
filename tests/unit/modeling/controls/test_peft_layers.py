"""LoRA, DoRA and (IA)³ go to layers that feed the sites and are alive, at ranks that come closest to HyperET's size."""

from __future__ import annotations

import pytest
import torch
from answers import answers, largest_relative_difference
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.inject import hyperet_size
from sam3_hyperet.modeling.parameters import adapter_parameters

CONVS, BLOCKS = "backbone.vision_backbone.convs", "backbone.vision_backbone.trunk.blocks"
LAYERS = "transformer.encoder.layers"

# site: the layers of the tiny model that feed it, parameters of rank 1 in each, the matched rank
FEEDING = {
    "fpn": ([f"{CONVS}.0.conv_3x3", f"{CONVS}.1.conv_3x3"], 64 * 9 + 64, 8192 // 1280),
    "encoder_layer": ([f"{LAYERS}.0.linear2", f"{LAYERS}.1.linear2"], 128 + 64, 8192 // 384),
    "trunk_qv": ([f"{BLOCKS}.{i}.attn.qkv" for i in range(4)], 96 + 288, 18432 // 1536),
    "encoder_out": ([f"{LAYERS}.1.linear2"], 128 + 64, 4096 // 192),
    "pixel_decoder": (["segmentation_head.pixel_decoder.conv_layers.0"], 64 * 9 + 64, 8192 // 640),
    "prompt": (["backbone.language_backbone.resizer"], 64 + 64, 4096 // 128),
}


@pytest.fixture(scope="module")
def expected(base, picture):
    return answers(base, picture)


@pytest.mark.parametrize("site", FEEDING)
def test_lora_feeds_the_site_at_hyperets_size(model, another, site):
    layers, size, rank = FEEDING[site]
    hyperet, lora = (hy.HyperETConfig(sites=[site], adapter=kind) for kind in ("hyperet", "lora"))
    budget = hy.parameter_report(hy.inject(another(), hyperet))["added"]
    before = dict(model.named_modules())
    assert hyperet_size(model, lora) == budget
    assert dict(model.named_modules()) == before
    hy.inject(model, lora)
    assert model.hyperet_control.names == layers
    base_size = sum(p.numel() for p in another().parameters())
    report = hy.parameter_report(model)
    assert report["added"] == len(layers) * size * rank
    assert budget - len(layers) * size < report["added"] <= budget
    assert report["total"] == base_size + report["added"]
    assert report["added_ratio"] == report["added"] / base_size
    shapes = {name.removeprefix(layers[0] + "."): p.shape for name, p in adapter_parameters(model)}
    assert shapes["lora_A.default.weight"][0] == shapes["lora_B.default.weight"][1] == rank


@pytest.mark.parametrize(
    ("options", "layers", "added"),
    [
        ({"scheme": "A+B"}, 4, 9 * (2 * 640 + 2 * 192)),
        ({"scheme": "B", "sites": ["encoder_layer", "encoder_out"]}, 2, 32 * 2 * 192),
        ({"scheme": "B", "layers": [1]}, 1, 21 * 192),
        ({"levels": [1], "rank": 3}, 1, 3 * 640),
        ({"scheme": "C", "rank": 1}, 2, 64 + 128 + 64 + 128),
        ({"scheme": "P", "blocks": [0, 2]}, 2, 24 * 2 * 384),
        ({"scheme": "P", "structure": "diagonal"}, 2, 2 * 384),
        ({"scheme": "none"}, 0, 0),
        ({"scheme": "B", "adapter": "dora"}, 2, 21 * 2 * 192 + 2 * 64),
        ({"scheme": "P", "adapter": "ia3"}, 4, 4 * 288),
    ],
)
def test_lora_of_options(model, options, layers, added):
    hy.inject(model, hy.HyperETConfig(**{"adapter": "lora", **options}))
    assert len(model.hyperet_control.names) == layers
    assert hy.parameter_report(model)["added"] == added
    if options.get("structure") == "diagonal":
        assert model.hyperet_control.names == [f"{BLOCKS}.2.attn.qkv", f"{BLOCKS}.3.attn.qkv"]


def test_the_layers_behind_attention(model):
    hy.inject(model, hy.HyperETConfig(adapter="lora", scheme="C", rank=1))
    assert model.hyperet_control.names == [f"{LAYERS}.0.linear1", f"{LAYERS}.1.linear1"]


def shifted(model, names, scale=0.1):
    """The adapted layers, away from where they start, in double precision."""
    generator = torch.Generator().manual_seed(1)
    layers = [model.get_submodule(name) for name in names]
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return [layer.double() for layer in layers]


WRAPPED = ["backbone.language_backbone.resizer", f"{CONVS}.1.conv_3x3"]


def inputs(layer):
    """Rows for a linear layer, a map for a convolution."""
    shape = (5, 64) if layer.get_base_layer().weight.dim() == 2 else (2, 64, 6, 7)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_weights(layer, weight, bias):
    base = layer.get_base_layer()
    x = inputs(layer)
    return nn.functional.linear(x, weight, bias) if weight.dim() == 2 else base._conv_forward(x, weight, bias)


@pytest.mark.parametrize(
    ("adapter", "added"), [("dora", 3 * (128 + 640) + 2 * 64), ("ia3", 2 * 64), ("lora", 3 * (128 + 640))]
)
@torch.no_grad()
def test_the_methods_equations_and_numbers_of_parameters(model, adapter, added):
    rank = None if adapter == "ia3" else 3
    hy.inject(model, hy.HyperETConfig(adapter=adapter, sites=["prompt", "fpn"], levels=[1], rank=rank))
    assert hy.parameter_report(model)["added"] == added
    for layer in shifted(model, WRAPPED):
        base, own = (
            layer.get_base_layer(),
            {name: p for name, p in layer.named_parameters() if "base_layer" not in name},
        )
        weight, bias = base.weight, base.bias
        if adapter == "ia3":
            factors = own["ia3_l.default"].flatten()
            weight, bias = (factors * weight.movedim(0, -1)).movedim(-1, 0), factors * bias
        else:
            a, b = (own[f"lora_{x}.default.weight"].flatten(1) for x in "AB")
            weight = weight + (b @ a).view_as(weight)
        if adapter == "dora":
            rows = weight.flatten(1)
            magnitudes = own["lora_magnitude_vector.default.weight"].flatten()
            weight = (magnitudes[:, None] * rows / rows.norm(dim=1, keepdim=True)).view_as(weight)
        expected = by_weights(layer, weight, bias)
        torch.testing.assert_close(layer(inputs(layer)), expected, rtol=1e-9, atol=1e-9)
        hy.set_dial(model, 0.3)
        between = by_weights(layer, base.weight + 0.3 * (weight - base.weight), base.bias + 0.3 * (bias - base.bias))
        torch.testing.assert_close(layer(inputs(layer)), between, rtol=1e-5, atol=1e-5)
        hy.set_dial(model, 1)


@torch.no_grad()
def test_the_output_has_the_bases_dtype(model):
    """Which (IA)³ by itself would give a convolution in fp32."""
    hy.inject(model, hy.HyperETConfig(adapter="ia3"))
    layer = model.get_submodule(f"{CONVS}.0.conv_3x3")
    x = torch.randn(1, 64, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dial in (1, 0.5, 0):
            hy.set_dial(model, dial)
            assert torch.equal(layer(x), layer.get_base_layer()(x))
            assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("layer", "is_dead"), [(r"self_attn\.out_proj", True), (r"cross_attn_image\.out_proj", True), ("linear1", False)]
)
def test_lora_in_the_projections_of_attention_would_be_dead(model, expected, picture, layer, is_dead):
    """Why the site `attention` has its LoRA in the layer behind it: `nn.MultiheadAttention` calls no projection."""
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(r=2, target_modules=rf"{LAYERS}\.\d\.{layer}"), model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    difference = largest_relative_difference(answers(model, picture), expected)
    assert difference < 1e-4 if is_dead else difference > 1e-2


def test_a_foreign_layer_is_refused(model):
    model.backbone.language_backbone.resizer = nn.Sequential(model.backbone.language_backbone.resizer)
    with pytest.raises(ConfigError, match=r"resizer is a Sequential; expected an nn.Linear or nn.Conv2d"):
        hy.inject(model, hy.HyperETConfig(adapter="lora", sites=["prompt"], rank=1))


def test_without_a_segmentation_head(model):
    model.segmentation_head = None
    with pytest.raises(ConfigError, match="site pixel_decoder: the model has no segmentation head"):
        hy.inject(model, hy.HyperETConfig(adapter="lora", sites=["pixel_decoder"], rank=1))
    hy.inject(model, hy.HyperETConfig(adapter="lora"))
