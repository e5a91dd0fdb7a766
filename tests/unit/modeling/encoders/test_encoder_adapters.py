"""Scheme P and wrapped modules on encoders of timm, transformers and PyTorch: identity, training, files, merging."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from small_encoders import ENCODERS, SIDE, patches_of, small_encoder
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.parameters import adapter_parameters

PIXELS = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
SEPARATE, FUSED = "transformers_vit", "timm_vit"


def features(name, model):
    with torch.no_grad():
        return patches_of(name, model, PIXELS)


@pytest.mark.parametrize("name", ENCODERS)
def test_scheme_p_is_the_identity_until_it_trains_and_merges_bit_for_bit(name, randomized):
    model = small_encoder(name)
    classes = {key: type(module) for key, module in model.named_modules()}
    keys, base = set(model.state_dict()), features(name, model)
    assert hy.inject_qv(model, {"structure": "banded", "geometry": "gyro"}) is model
    assert torch.equal(features(name, model), base)
    assert keys < set(model.state_dict())
    assert hy.parameter_report(model)["added"] == 2 * 2 * (3 * 24 - 2 + 24)  # two blocks, q and v
    adapted = features(name, randomized(model, scale=0.3))
    assert (adapted - base).abs().max() > 1e-2
    with hy.adapters_disabled(model):
        assert torch.equal(features(name, model), base)
    hy.set_dial(model, 0.0)
    assert torch.equal(features(name, model), base)
    hy.set_dial(model, 1.0)
    removed = hy.remove_adapter(copy.deepcopy(model))
    assert torch.equal(features(name, removed), base)
    assert torch.equal(features(name, hy.merge(model)), adapted)
    for one in (removed, model):
        assert {key: type(module) for key, module in one.named_modules()} == classes
        assert set(one.state_dict()) == keys


@pytest.mark.parametrize("name", [FUSED, SEPARATE, "timm_dinov3_qkv_bias", "torch_attention"])
@pytest.mark.parametrize("kept", ["fp32", "bf16-mixed"])
def test_adapters_alone_train(name, kept):
    """Gradients reach q and v also where attention reads the weight, and does not call the projection."""
    model = hy.inject_qv(small_encoder(name), {"structure": "diagonal", "share": False})
    hy.set_stage(model, 1)
    trained = dict(adapter_parameters(model))
    assert {key for key, p in model.named_parameters() if p.requires_grad} == trained.keys()
    optimizer = torch.optim.Adam(trained.values(), lr=0.05)
    target, losses = torch.zeros(()), []
    for _ in range(6):
        with torch.autocast("cpu", torch.bfloat16, enabled=kept != "fp32"):
            out = patches_of(name, model, PIXELS)
        loss = (out.float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.abs().sum() > 0 for key, p in trained.items() if "matrix" in key)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", [FUSED, SEPARATE])
def test_a_saved_file_loads_onto_the_encoder_that_it_was_trained_on(name, randomized, tmp_path, model):
    trained = randomized(hy.inject_qv(small_encoder(name), {"structure": "diagonal"}))
    hy.set_dial(trained, 0.5)
    hy.save_adapter(trained, file := tmp_path / "adapter.safetensors")
    fresh = small_encoder(name)
    hy.load_adapter(fresh, file)
    assert torch.equal(features(name, fresh), features(name, trained))
    with torch.no_grad():  # no part of what it depends on
        for key, parameter in (other := small_encoder(name)).named_parameters():
            if "layer" not in key and "blocks" not in key:
                parameter.add_(1.0)
    hy.load_adapter(other, file)
    other = small_encoder(name)
    with torch.no_grad():
        next(p for key, p in other.named_parameters() if "fc1" in key).add_(1.0)
    with pytest.raises(CheckpointError, match="made for the base"):
        hy.load_adapter(other, file)
    assert not list(adapter_parameters(other))
    with pytest.raises(CheckpointError, match=r"qkv is not in this|_proj is not in this"):
        hy.load_adapter(small_encoder("torch_attention"), file)
    with pytest.raises(CheckpointError, match=r"made for an encoder with .* \(2\), not for SAM 3"):
        hy.load_adapter(model, file)
    with pytest.raises(CheckpointError, match="adapters in other modules than the file"):
        hy.load_adapter(hy.inject_qv(small_encoder(name), {"structure": "diagonal", "blocks": [0]}), file)
    hy.save_adapter(hy.inject(model, {"scheme": "P"}), file)
    with pytest.raises(ConfigError, match="expected SAM 3's image model"):
        hy.load_adapter(fresh, file)


def test_a_file_is_given_no_more_memory_than_it_has(tmp_path):
    from sam3_hyperet.modeling.tensor_files import read_safetensors, write_safetensors

    model = hy.wrap(small_encoder(FUSED), r"blocks\.\d$", channels=24, channel_dim=-1)
    hy.save_adapter(model, file := tmp_path / "adapter.safetensors")
    tensors, metadata = read_safetensors(file)
    for found, message in (
        (metadata["encoder"].replace("24", "1000000"), "blocks.0 has 1000000 channels, and no tensor is as large"),
        ('[["blocks.0", "k", 0, 24, -1]]', "its list of adjusted modules cannot be read .found"),
        ("{}", "its list of adjusted modules cannot be read .found None"),
    ):
        write_safetensors(tensors, file, {**metadata, "encoder": found})
        with pytest.raises(CheckpointError, match=message):
            hy.load_adapter(small_encoder(FUSED), file)


def test_half_precision_and_the_compiler(randomized):
    model = randomized(hy.inject_qv(small_encoder("timm_dinov3_qkv_bias"), {"structure": "diagonal"}))
    attention, tokens = model.blocks[0].attn, torch.randn(1, 5, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        compiled = torch.compile(attention, backend="eager", fullgraph=True)
        assert torch.equal(compiled(tokens), attention(tokens))
        torch.compiler.reset()
        expected = features("timm_dinov3_qkv_bias", model)
        half = model.to(torch.bfloat16).forward_features(PIXELS.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_blocks_of_several_widths_share_by_width():
    import timm

    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, embed_dim=12, depths=(1, 1), num_heads=(1, 2)
    )
    model = hy.inject_qv(model.eval())
    sites = {module.name for module in model.modules() if hasattr(module, "site_name")}
    assert sites == {"trunk_qv.of_12", "trunk_qv.of_24"}


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision, self.text = small_encoder(FUSED), small_encoder(SEPARATE)


def test_where_attention_is_not_clear_the_error_names_the_candidates():
    with pytest.raises(ConfigError, match=r"2 stacks: vision.blocks.\*.attn \(2\), text.layers.\*.attention \(2\)"):
        hy.inject_qv(Pair())
    with pytest.raises(ConfigError, match=r"matches no attention; expected one of vision.blocks.\*.attn \(2\)"):
        hy.inject_qv(Pair(), pattern="decoder")
    model = hy.inject_qv(Pair(), pattern="^vision")
    assert all(name.startswith("vision.") for name, _ in adapter_parameters(model))
    with pytest.raises(ConfigError, match="found no attention in this Sequential"):
        hy.inject_qv(nn.Sequential(nn.Conv2d(3, 8, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "prompt", "sites": ["prompt"]}, "gate='prompt' is for SAM 3's sites"),
        ({"adapter": "lora"}, "adapter='lora' is for SAM 3's sites"),
        ({"blocks": [2]}, r"blocks=\[2\]: the model has no attention block 2"),
        ({"structure": "block_diagonal", "block_size": 5}, "block_size must divide dim=24"),
    ],
)
def test_options_that_cannot_be(options, message, base):
    model = small_encoder(FUSED)
    before = features(FUSED, model)
    with pytest.raises(ConfigError, match=message):
        hy.inject_qv(model, options)
    assert torch.equal(features(FUSED, hy.inject_qv(model)), before)
    with pytest.raises(ConfigError, match="already has adapters"):
        hy.wrap(model, "mlp")
    with pytest.raises(ConfigError, match="found SAM 3's image model"):
        hy.inject_qv(base)


WRAPS = {
    "linear": (FUSED, r"mlp\.fc2$", {}),
    "convolution": ("timm_sam", r"neck\.2$", {}),
    "block": (FUSED, r"blocks\.\d+$", {"channels": 24, "channel_dim": -1}),
    "block of maps": ("timm_sam", r"blocks\.\d+$", {"channels": 24, "channel_dim": -1}),
    "layer": (SEPARATE, r"layers\.\d+$", {"channels": 24, "channel_dim": -1}),
    "norm": (SEPARATE, r"layernorm$", {}),
}


@pytest.mark.parametrize("name", WRAPS)
def test_wrapped_modules(name, randomized, tmp_path):
    encoder, pattern, stated = WRAPS[name]
    model, base = small_encoder(encoder), features(encoder, small_encoder(encoder))
    hy.wrap(model, pattern, {"geometry": "euclidean", "structure": "diagonal"}, **stated)
    assert torch.equal(features(encoder, model), base)
    adapted = features(encoder, randomized(model))
    assert not torch.allclose(adapted, base, atol=1e-2)
    hy.save_adapter(model, file := tmp_path / "adapter.safetensors")
    assert torch.equal(features(encoder, hy.load_adapter(small_encoder(encoder), file)), adapted)
    if name in ("linear", "convolution"):
        torch.testing.assert_close(features(encoder, hy.merge(model)), adapted, rtol=1e-4, atol=1e-4)
    else:
        with pytest.raises(ConfigError, match="site output does not fold into the base weights: its modules are no"):
            hy.merge(model)
        hy.remove_adapter(model)
        assert torch.equal(features(encoder, model), base)


def test_a_wrap_merges_where_it_is_linear():
    with pytest.raises(
        ConfigError, match=r"output.blocks.0.mlp.fc2 does not fold .*: geometry lorentz is not a linear"
    ):
        hy.merge(hy.wrap(small_encoder(FUSED), "fc2"))
    capped = hy.wrap(small_encoder(FUSED), "fc2", {"geometry": "mobius", "share": True})
    with pytest.raises(ConfigError, match="needs the encoder's input"):
        hy.merge(capped)
    before = features(FUSED, capped)
    torch.testing.assert_close(features(FUSED, hy.merge(capped, PIXELS)), before)
    capped = hy.wrap(small_encoder(FUSED), "fc2", {"geometry": "mobius", "curvature": 50.0})
    with pytest.raises(ConfigError, match="times as long as the norm cap"):
        hy.merge(capped, PIXELS)


@pytest.mark.parametrize(
    ("pattern", "stated", "message"),
    [
        ("decoder", {}, r"matches no submodule; there are patch_embed \(1\)"),
        ("blocks", {}, "blocks: the channels of a Sequential are not known; state channels= and channel_dim="),
        (
            r"mlp\.fc",
            {"config": {"share": True}},
            "share=true: the modules have different channels, 24 along axis -1, 96",
        ),
        ("fc1", {"config": {"blocks": [0]}}, "wrap has none"),
        ("fc1", {"channels": 24}, r"^blocks\.0\.mlp\.fc1: channels=24, but this Linear returns 96$"),
        (
            r"norm1$",
            {"channels": 96, "channel_dim": -1},
            r"^blocks\.0\.norm1: channels=96, but this LayerNorm returns 24$",
        ),
        (r"patch_embed\.proj", {"channels": 3}, r"^patch_embed\.proj: channels=3, but this Conv2d returns 24$"),
    ],
)
def test_what_cannot_be_wrapped(pattern, stated, message):
    with pytest.raises(ConfigError, match=message):
        hy.wrap(small_encoder(FUSED), pattern, **stated)


@pytest.mark.parametrize(
    ("stated", "found"),
    [
        ({"channels": 16, "channel_dim": -1}, "24 along axis -1; its adjustment is of 16: wrap it with"),
        ({"channels": 24, "channel_dim": 1}, "17 along axis 1; its adjustment is of 24: wrap it with"),
        ({"channels": 24, "channel_dim": 3, "config": {"share": True}}, "no channels along axis 3; its adjustment"),
    ],
)
def test_channels_that_a_block_has_not_are_named_at_its_first_forward(stated, found):
    model = hy.wrap(small_encoder(FUSED), r"blocks\.\d$", **stated)
    with pytest.raises(ConfigError, match=rf"^blocks\.0: the module returned \(2, 17, 24\), {found}"):
        features(FUSED, model)
    assert not any("hyperet_module" in vars(one) for one in hy.remove_adapter(model).modules())


def test_what_returns_no_tensor_is_named():
    model = hy.wrap(small_encoder(SEPARATE), r"attention$", channels=24, channel_dim=-1)
    with pytest.raises(
        ConfigError, match=r"output\.layers\.0.attention: the module returned a tuple, expected one tensor"
    ):
        features(SEPARATE, model)
    with pytest.raises(ConfigError, match="layers, a ModuleList, which returns nothing"):
        hy.wrap(small_encoder(SEPARATE), r"^layers$", channels=24, channel_dim=-1)
    wrapped = hy.wrap(small_encoder(SEPARATE), r"layers\.\d$", channels=24, channel_dim=-1)
    states = wrapped(PIXELS, output_hidden_states=True).hidden_states
    assert len(states) == 3


@pytest.mark.parametrize("pattern", [r"out_proj$", r"linear2$", r"norm1$"])
def test_what_pytorchs_layer_does_not_call_is_not_wrapped(pattern):
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1, enable_nested_tensor=False)
    with pytest.raises(ConfigError, match=r"reads its weights without calling it"):
        hy.wrap(model, pattern)
    assert not any("adjustment" in key for key in model.state_dict())
    hy.wrap(model, r"^layers\.\d+$", channels=8, channel_dim=-1)


def test_an_adjusted_encoder_is_pickled_and_copied(randomized, tmp_path):
    model = randomized(hy.wrap(small_encoder(FUSED), r"blocks\.\d$", {"share": True}, channels=24, channel_dim=-1))
    expected, copied = features(FUSED, model), copy.deepcopy(model)
    torch.save(model, tmp_path / "model.pt")
    for one in (torch.load(tmp_path / "model.pt", weights_only=False), pickle.loads(pickle.dumps(model)), copied):
        assert torch.equal(features(FUSED, one), expected)
        assert [type(module) for module in one.modules()] == [type(module) for module in model.modules()]
        assert one.blocks[0].hyperet_adjustment is one.blocks[1].hyperet_adjustment
        assert one.blocks[0].hyperet_adjustment is not model.blocks[0].hyperet_adjustment
        assert hy.parameter_report(one) == hy.parameter_report(model)
        hy.save_adapter(one, tmp_path / "adapter.safetensors")
        hy.remove_adapter(one)
        assert type(one.blocks[0]) is type(small_encoder(FUSED).blocks[0])
    hy.load_adapter(small_encoder(FUSED), tmp_path / "adapter.safetensors")
