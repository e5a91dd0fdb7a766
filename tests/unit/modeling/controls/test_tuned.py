"""BitFit and LayerNorm tuning find what their patterns name, of layers that are read, and blend it at a dial."""

from __future__ import annotations

import torch
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.modeling.parameters import adapter_parameters, base_state_dict

CONVS, LAYERS = "backbone.vision_backbone.convs", "transformer.encoder.layers"


def test_biases_of_layers_that_nothing_reads_are_left_alone(model):
    hy.inject(model, hy.HyperETConfig(adapter="bitfit", biases=["."]))
    names = model.hyperet_control.names
    assert not [name for name in names if name.startswith(f"{CONVS}.2.")]
    assert f"{CONVS}.1.conv_3x3.bias" in names
    assert f"{LAYERS}.0.self_attn.in_proj_bias" in names
    assert all(name.endswith("bias") for name in names)
    left = {name for name in base_state_dict(model) if name.endswith("bias")} - set(names)
    points = {f"geometry_encoder.points_{way}_project.bias" for way in ("direct", "pool", "pos_enc")}
    assert left == {f"{CONVS}.2.conv_1x1.bias", f"{CONVS}.2.conv_3x3.bias"} | points


def test_patterns_choose_the_biases(model, base):
    hy.inject(model, hy.HyperETConfig(adapter="bitfit", biases=[r"\.self_attn\.in_proj_bias$", rf"^{CONVS}\.0\."]))
    expected = {name for name, _ in base.named_parameters() if name.endswith("self_attn.in_proj_bias")}
    expected |= {f"{CONVS}.0.{layer}.bias" for layer in ("conv_1x1", "conv_3x3", "dconv_2x2")}
    assert {name for name, _ in adapter_parameters(model)} == expected
    report, size = hy.parameter_report(model), sum(p.numel() for p in base.parameters())
    assert report["added"] == sum(p.numel() for name, p in base.named_parameters() if name in expected)
    assert report["total"] == size
    assert report["added_ratio"] == report["added"] / size


def test_a_detector_with_a_sam2_neck(model):
    """As `sam3.model_builder` makes it with instance interactivity: SAM 2's convolutions are not the detector's."""
    neck = model.backbone.vision_backbone
    neck.sam2_convs = nn.ModuleList([nn.Sequential(nn.Conv2d(96, 64, 1))])
    hy.inject(model, hy.HyperETConfig(adapter="bitfit", biases=["vision_backbone"]))
    assert not [name for name in model.hyperet_control.names if "sam2_convs" in name]


def test_the_heads_own_layers_and_none(model):
    config = hy.HyperETConfig(adapter="bitfit", biases=[r"pixel_decoder\.", r"^transformer\."])
    model.segmentation_head.pixel_decoder.conv_layers.append(nn.Conv2d(64, 64, 3))  # as at the official size
    hy.inject(model, config)
    found = [name for name in model.hyperet_control.names if "pixel_decoder" in name]
    assert found == [f"segmentation_head.pixel_decoder.{kind}.0.bias" for kind in ("conv_layers", "norms")]


def test_without_a_segmentation_head(model):
    model.segmentation_head = None
    hy.inject(model, hy.HyperETConfig(adapter="bitfit"))
    assert hy.parameter_report(model)["added"] == 9501


def test_layer_norms_of_patterns(model, base):
    hy.inject(model, hy.HyperETConfig(adapter="ln", norms=[r"\.norm1\.", "ln_pre"]))
    expected = {f"backbone.vision_backbone.trunk.ln_pre.{kind}" for kind in ("weight", "bias")}
    expected |= {name for name, _ in base.named_parameters() if ".norm1." in name}
    assert {name for name, _ in adapter_parameters(model)} == expected
    assert hy.parameter_report(model)["total"] == sum(p.numel() for p in base.parameters())


def test_the_dial_of_what_is_tuned(model, base, another, randomized, tmp_path):
    hy.inject(model, hy.HyperETConfig(adapter="ln"))
    randomized(model)
    before, own = dict(base.named_parameters()), dict(model.named_parameters())
    names = [name for name, _ in adapter_parameters(model)]
    tuned = {name: own[name].detach().clone() for name in names}
    hy.set_dial(model, 0.3)
    for name in names:
        assert torch.equal(model.get_parameter(name), before[name] + 0.3 * (tuned[name] - before[name]))
    hy.save_adapter(model, tmp_path / "adapter.safetensors")
    hy.set_dial(other := hy.inject(another(), hy.HyperETConfig(adapter="ln")), 0.3)
    hy.load_adapter(other, tmp_path / "adapter.safetensors")
    hy.set_dial(model.double().float(), 0.3)
    for model_ in (model, other):
        hy.set_dial(model_, 1)
        assert all(torch.equal(model_.get_parameter(name), tuned[name]) for name in names)
    assert all(model.get_parameter(name) is own[name] for name in names)
