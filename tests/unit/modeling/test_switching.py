"""Adapters taken out again, several on one base, other precisions and devices, and clear refusals."""

from __future__ import annotations

import logging

import pytest
import torch
from answers import answers, equal, largest_relative_difference
from reachable import tensors_of
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.parameters import adapter_parameters, adapter_sites, base_state_dict

EVERYWHERE = {"sites": ["fpn", "encoder_layer", "attention", "trunk_qv", "encoder_out", "pixel_decoder", "prompt"]}
KINDS = {
    "every site": EVERYWHERE,
    "shared": {**EVERYWHERE, "share": True, "geometry": "gyro", "residual": 0.3, "learn_residual": True},
    "lora": {"adapter": "lora"},
    "bitfit": {"adapter": "bitfit"},
    "none": {"scheme": "none"},
}


def classes(model):
    return [(name, type(module)) for name, module in model.named_modules()]


def attributes(model):
    return {name: vars(module).keys() for name, module in model.named_modules()}


@pytest.mark.parametrize("kind", KINDS)
def test_removed_adapters_leave_exactly_the_base(model, base, picture, randomized, kind):
    before = dict(model.named_parameters())
    randomized(hy.inject(model, KINDS[kind]), scale=0.1)
    if kind != "none":
        assert not equal(answers(model, picture), answers(base, picture))
    assert hy.remove_adapter(model) is model
    assert classes(model) == classes(base)
    assert attributes(model) == attributes(base)
    assert list(model.state_dict()) == list(base.state_dict())
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert equal(answers(model, picture), answers(base, picture))
    assert base_fingerprint(model) == base_fingerprint(base)
    hy.inject(model, hy.HyperETConfig())


def test_removal_while_switched_off(model, base, picture, randomized):
    for options in KINDS.values():
        randomized(hy.inject(model, options), scale=0.1)
        for site in adapter_sites(model).values():
            site.enabled = False
        hy.remove_adapter(model)
        assert classes(model) == classes(base)
    assert equal(answers(model, picture), answers(base, picture))


def test_adapters_of_a_copy_are_removed_from_it_alone(model, picture, randomized):
    randomized(hy.inject(model, EVERYWHERE), scale=0.1)
    before = answers(model, picture)
    hy.remove_adapter(shared_copy(model))
    assert equal(answers(model, picture), before)


def test_a_model_without_adapters_has_none_to_remove(model):
    with pytest.raises(ConfigError, match="no adapters to remove"):
        hy.remove_adapter(model)


def test_another_adapter_after_removal(model, another, tmp_path, randomized, picture):
    for name, options in (("a", {}), ("p", {"scheme": "P"})):
        hy.save_adapter(randomized(hy.inject(another(), options)), tmp_path / f"{name}.safetensors")
    hy.load_adapter(model, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"p.safetensors: holds .*'P'.*the model has .*'A'.*remove_adapter"):
        hy.load_adapter(model, tmp_path / "p.safetensors")
    hy.load_adapter(hy.remove_adapter(model), tmp_path / "p.safetensors")
    assert equal(answers(model, picture), answers(hy.adapted_copy(another(), tmp_path / "p.safetensors"), picture))


def test_several_adapters_share_one_base(base, another, picture, randomized, tmp_path):
    expected = answers(base, picture)  # fills SAM 3's caches as well
    hy.save_adapter(randomized(hy.inject(another(), {"scheme": "B"})), tmp_path / "b.safetensors")
    models = [hy.adapted_copy(base, options) for options in (EVERYWHERE, KINDS["lora"], KINDS["bitfit"], KINDS["none"])]
    models.append(hy.adapted_copy(base, tmp_path / "b.safetensors"))
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(base)}
    for model in models:
        added = {id(p) for _, p in adapter_parameters(model)}
        added |= {id(b) for site in adapter_sites(model).values() for b in site.buffers()}
        assert {t.untyped_storage().data_ptr() for t in tensors_of(model) if id(t) not in added} <= own
        assert all(t is base_state_dict(base)[name] for name, t in base_state_dict(model).items() if "bias" not in name)
    file = models.pop()
    assert not equal(answers(file, picture), expected)
    for model in models[:-1]:
        assert largest_relative_difference(answers(model, picture), expected) <= 1e-5
        with hy.adapters_disabled(model):
            assert equal(answers(model, picture), expected)
        randomized(model, scale=0.1)
        assert not equal(answers(model, picture), expected)
    assert equal(answers(models[-1], picture), expected)
    assert equal(answers(base, picture), expected)


def test_copies_of_an_adapted_model_are_refused_with_a_remedy(model):
    hy.inject(model, {})
    with pytest.raises(ConfigError, match=r"already has adapters .*remove_adapter\(model\).*adapted_copy\(base"):
        hy.adapted_copy(model, {})


def test_options_by_name(model):
    assert hy.inject(model, {"scheme": "P", "structure": "diagonal"}).hyperet_config.structure == "diagonal"
    with pytest.raises(ConfigError, match=r"hyperet\.strcture is not an option"):
        hy.inject(hy.remove_adapter(model), {"strcture": "diagonal"})


@pytest.mark.parametrize("move", ["to", "to_device"])
def test_a_model_that_has_run_moves_whole(model, picture, move):
    hy.inject(model, EVERYWHERE)
    answers(model, picture)
    assert model.transformer.decoder.compilable_cord_cache is not None
    model = model.to("meta") if move == "to" else hy.to_device(model, "meta")
    assert {tensor.device.type for tensor in tensors_of(model)} == {"meta"}
    assert model.segmentation_head.device.type == model.device.type == "meta"


def test_a_model_of_another_builder_moves_whole(model, picture):
    stock = shared_copy(model)
    stock.__class__ = host.Sam3Image
    answers(stock, picture)
    hy.to_device(stock, "cpu")
    assert not [t for m in stock.modules() if isinstance(m, host.PositionEmbeddingSine) for t in m.cache.values()]
    answers(stock, picture)


HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture
def in_half(another):
    """A function that makes the base as a checkpoint in half precision gives it, in fp32 or as it is."""

    def make(precision, kept=False):
        model = another()
        for module in model.modules():  # `model.to` would make SAM 3's complex rotary embeddings real
            for name, parameter in list(module.named_parameters(recurse=False)):
                half = parameter.detach().to(HALF[precision])
                setattr(module, name, nn.Parameter(half if kept else half.float()))
        return model

    return make


@pytest.mark.parametrize("kept", [False, True], ids=["in fp32", "as it is"])
@pytest.mark.parametrize("precision", HALF)
def test_an_adapter_of_the_base_in_another_precision(model, in_half, randomized, tmp_path, caplog, precision, kept):
    path = tmp_path / "adapter.safetensors"
    hy.save_adapter(randomized(hy.inject(model, {})), path)
    with caplog.at_level(logging.WARNING):
        other = hy.load_adapter(in_half(precision, kept), path)
    assert f"all weights are equal after rounding to {precision}" in caplog.text
    own = dict(adapter_parameters(model))
    assert all(torch.equal(p, own[name]) for name, p in adapter_parameters(other))
    # and back: trained on the rounded base, used on the original
    hy.save_adapter(other, path)
    hy.load_adapter(hy.remove_adapter(model), path)


def test_bases_that_only_round_to_the_same_are_not_the_same(model, another, tmp_path):
    path = tmp_path / "adapter.safetensors"
    hy.save_adapter(hy.inject(model, {}), path)
    other = another()
    with torch.no_grad():  # less than half a step of bfloat16, and neither is a rounded copy of the other
        weight = other.dot_prod_scoring.hs_proj.weight
        weight[0, 0] = torch.nextafter(weight[0, 0], weight[0, 0] * 2)
    with pytest.raises(CheckpointError, match=r"this model's is .*also after rounding to bfloat16 or float16"):
        hy.load_adapter(other, path)


def test_an_adapter_in_half_precision_of_another_base_is_refused(in_half, model, tmp_path):
    path = tmp_path / "adapter.safetensors"
    hy.save_adapter(hy.inject(model, {}), path)
    other = in_half("bfloat16")
    with torch.no_grad():
        other.dot_prod_scoring.hs_proj.weight[0, 0] *= 1.01
    with pytest.raises(CheckpointError, match="made for the base"):
        hy.load_adapter(other, path)


class Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize("use", [lambda m, _: hy.inject(m, {}), lambda m, _: hy.adapted_copy(m, {}), hy.load_adapter])
def test_what_is_no_sam3_is_named(model, use, tmp_path):
    file = tmp_path / "adapter.safetensors"
    hy.save_adapter(hy.inject(model, {}), file)
    hy.remove_adapter(model)
    with pytest.raises(ConfigError, match=r"found a torch\.nn\.modules\.linear\.Linear; expected SAM 3's image model"):
        use(nn.Linear(2, 2), file)
    with pytest.raises(ConfigError, match=r"Wrapper; expected SAM 3's image model.* pass its \.module"):
        use(Wrapper(model), file)


def test_a_predictor_of_a_moved_model(model, picture):
    before = answers(model, picture)
    assert equal(answers(model.double().float(), picture), before)
    assert Predictor(model, ["car"], 128).predict(picture)
