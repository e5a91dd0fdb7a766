"""Groups of parameters, each with a learning rate of its own."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.training.optimizer import build_optimizer, gradient_norms, set_learning_rates
from sam3_hyperet.training.options import KEY_LAYERS, FitOptions, OptimizerOptions, TrainOptions

OPTIONS = OptimizerOptions(lr=1.0, warmup_steps=4, final_lr_ratio=0.1)


def rates(optimizer, steps, max_steps):
    return [set_learning_rates(optimizer, OPTIONS, step, max_steps) for step in steps]


def test_a_rate_warms_up_then_decays(model):
    hy.set_stage(hy.inject(model, hy.HyperETConfig()), 1)
    optimizer = build_optimizer(model, OPTIONS)
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for _, p in adapter_parameters(model)]
    found = [rate["adapters"] for rate in rates(optimizer, range(13), 12)]
    assert group["lr"] == found[-1]
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert all(a > b for a, b in itertools.pairwise(found[4:]))
    assert found[8] == pytest.approx(0.55)
    assert found[12] == pytest.approx(0.1)
    with pytest.raises(ConfigError, match=r"optim.warmup_steps=13; expected from 0 to train.max_steps=12"):
        FitOptions(train=TrainOptions(max_steps=12, batch_size=1), optim=replace(OPTIONS, warmup_steps=13))


def test_groups_of_stage_3_and_layer_wise_decay(model):
    hy.set_stage(hy.inject(model, hy.HyperETConfig(scheme="A+P")), 3)
    optimizer = build_optimizer(model, replace(OPTIONS, trunk_decay=0.5), key_layers=KEY_LAYERS)
    groups = {group["name"]: group for group in optimizer.param_groups}
    assert sorted(groups) == ["adapters", "key_layers", "rest", *(f"trunk.{below}" for below in range(5))]
    assert sum(len(group["params"]) for group in groups.values()) == len(list(model.parameters()))
    trunk = model.backbone.vision_backbone.trunk
    at = {id(p): name for name, group in groups.items() for p in group["params"]}
    assert at[id(trunk.blocks[3].attn.qkv.weight)] == "trunk.0"
    assert at[id(trunk.blocks[0].mlp.fc1.weight)] == "trunk.3"
    assert at[id(trunk.patch_embed.proj.weight)] == "trunk.4"
    assert at[id(trunk.blocks[3].attn.qkv.adjustment.q.matrix.offset)] == "adapters"
    assert at[id(model.transformer.decoder.query_embed.weight)] == "key_layers"
    assert at[id(model.backbone.vision_backbone.convs[0][0].weight)] == "rest"
    peak = {name: group["peak_lr"] for name, group in groups.items()}
    assert peak["adapters"] == 1.0
    assert peak["key_layers"] == peak["rest"] == peak["trunk.0"] == pytest.approx(0.1)
    assert peak["trunk.4"] == pytest.approx(0.1 * 0.5**4)


def test_a_group_warms_up_from_its_own_start(model):
    hy.set_stage(hy.inject(model, hy.HyperETConfig()), 2)
    optimizer = build_optimizer(model, OPTIONS, key_layers=KEY_LAYERS, starts={"key_layers": 50})
    found = rates(optimizer, range(50, 55), 100)
    shares = [rate["key_layers"] / rate["adapters"] for rate in found]
    assert shares == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


def test_state_is_kept_for_what_goes_on_and_dropped_for_the_rest(model):
    hy.set_stage(hy.inject(model, hy.HyperETConfig()), 1)
    before = build_optimizer(model, OPTIONS)
    for _, p in adapter_parameters(model):
        p.grad = torch.ones_like(p)
    before.step()
    hy.set_stage(model, 2)
    after = build_optimizer(model, OPTIONS, key_layers=KEY_LAYERS, previous=before)
    assert after.state.keys() == {p for _, p in adapter_parameters(model)}
    assert all(after.state[p] is before.state[p] for _, p in adapter_parameters(model))


def test_gradient_norms_by_group(model):
    hy.set_stage(hy.inject(model, hy.HyperETConfig()), 2)
    optimizer = build_optimizer(model, OPTIONS, key_layers=KEY_LAYERS)
    for _, p in adapter_parameters(model):
        p.grad = torch.full_like(p, 2.0)
    size = sum(p.numel() for _, p in adapter_parameters(model))
    assert gradient_norms(optimizer) == pytest.approx({"adapters": 2 * size**0.5, "key_layers": 0.0})


@pytest.mark.parametrize("option", ["base_lr_ratio", "trunk_decay"])
@pytest.mark.parametrize("value", [0.0, -1.0, 1.5])
def test_impossible_ratios(option, value):
    with pytest.raises(ConfigError, match=rf"optim\.{option}={value}; expected above 0"):
        OptimizerOptions(**{option: value})
