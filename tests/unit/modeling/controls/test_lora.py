"""LoRA goes to layers that feed the sites and are alive, at the rank that comes closest to HyperET's size."""

from __future__ import annotations

import copy

import pytest
import torch
from answers import answers, largest_relative_difference
from hypothesis import given
from hypothesis import strategies as st
from official import on_meta
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.build import ARCHITECTURES, assemble
from sam3_hyperet.modeling.controls.lora import matched_rank
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
    ],
)
def test_lora_of_options(model, options, layers, added):
    hy.inject(model, hy.HyperETConfig(adapter="lora", **options))
    assert len(model.hyperet_control.names) == layers
    assert hy.parameter_report(model)["added"] == added
    if options.get("structure") == "diagonal":
        assert model.hyperet_control.names == [f"{BLOCKS}.2.attn.qkv", f"{BLOCKS}.3.attn.qkv"]


def test_the_layers_behind_attention(model):
    hy.inject(model, hy.HyperETConfig(adapter="lora", scheme="C", rank=1))
    assert model.hyperet_control.names == [f"{LAYERS}.0.linear1", f"{LAYERS}.1.linear1"]


def test_the_update_is_b_times_a(model, randomized):
    config = hy.HyperETConfig(adapter="lora", sites=["prompt", "fpn"], rank=3)
    linear, convolution = model.backbone.language_backbone.resizer, model.get_submodule(f"{CONVS}.0.conv_3x3")
    tensors = dict(adapter_parameters(randomized(hy.inject(model, config))))
    generator = torch.Generator().manual_seed(0)
    for name, layer, shape in (
        ("backbone.language_backbone.resizer", linear, (5, 64)),
        (f"{CONVS}.0.conv_3x3", convolution, (1, 64, 6, 7)),
    ):
        a, b = (tensors[f"{name}.lora_{x}.default.weight"].double() for x in "AB")
        weight = layer.weight.double() + (b.flatten(1) @ a.flatten(1)).view(layer.weight.shape)
        x = torch.randn(shape, generator=generator)
        bias = layer.bias.double()
        if x.dim() == 2:
            expected = nn.functional.linear(x.double(), weight, bias)
        else:
            expected = nn.functional.conv2d(x.double(), weight, bias, padding=1)
        torch.testing.assert_close(model.get_submodule(name)(x).double(), expected, rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.integers(0, 5000))
def test_the_matched_rank_is_the_largest_that_fits(sizes, budget):
    sizes = {str(i): size for i, size in enumerate(sizes)}
    if budget < min(sizes.values()):
        with pytest.raises(ConfigError, match=rf"HyperET would add {budget:,} parameters.* set hyperet.rank=1"):
            matched_rank(sizes, budget)
        return
    rank, names = matched_rank(sizes, budget)
    added = rank * sum(sizes[name] for name in names)
    assert added <= budget
    if names == list(sizes):
        assert added + sum(sizes.values()) > budget
    else:
        assert rank == 1
        assert names == sorted(names, key=int)
        assert min(size for name, size in sizes.items() if name not in names) > budget - added


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


@pytest.fixture(scope="module")
def large():
    with on_meta():
        return assemble(ARCHITECTURES["large"])


@pytest.mark.parametrize(
    ("options", "rank", "layers"),
    [
        ({"scheme": "A"}, 196608 // (3 * 2560), 3),
        ({"scheme": "B"}, 393216 // (6 * 2304), 6),
        ({"scheme": "P"}, 2 * 1024**2 // (32 * 4096), 32),
        ({"scheme": "P", "structure": "diagonal"}, 1, 16),
        ({"sites": ["pixel_decoder"]}, 196608 // (2 * 2560), 2),
    ],
)
def test_the_official_size(large, options, rank, layers):
    memo = {id(x): x for x in (large.backbone.language_backbone.tokenizer, *large.parameters(), *large.buffers())}
    model = copy.deepcopy(large, memo)
    hy.inject(model, hy.HyperETConfig(adapter="lora", **options))
    assert {layer.r["default"] for layer in model.hyperet_control._layers} == {rank}
    assert len(model.hyperet_control.names) == layers
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert 0 < hy.parameter_report(model)["added_ratio"] < 0.01
