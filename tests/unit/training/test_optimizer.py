"""Groups of parameters, each with a learning rate of its own."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import pytest
import torch
from sam3_recipe import CLIP_NORM, published_optimizer

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.options import read_options
from sam3_hyperet.training.optimizer import build_optimizer, describe_groups, gradient_norms, set_learning_rates
from sam3_hyperet.training.options import KEY_LAYERS, FitOptions, OptimizerOptions, StageOptions, TrainOptions

OPTIONS = OptimizerOptions(lr=1.0, warmup=4, final_lr_ratio=0.1)


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
    with pytest.raises(ConfigError, match=r"warmup=13; expected a fraction below 1, or steps up to train.max_steps=12"):
        FitOptions(train=TrainOptions(max_steps=12, batch_size=1), optim=replace(OPTIONS, warmup=13))


def test_rates_and_decay_of_the_base_are_the_published_ones(another):
    """Of every parameter, as SAM 3 constructs its optimizer; ours spares the norms of groups of channels as well."""
    model = another()
    hy.set_stage(model, 3)
    optimizer = build_optimizer(model, OptimizerOptions())
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    ours = {name: of[id(p)] for name, p in model.named_parameters()}
    rates, decays = published_optimizer(model)
    assert {name: group["peak_lr"] for name, group in ours.items()} == pytest.approx(rates, rel=1e-12)
    group_norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.GroupNorm)}
    assert {name for name, group in ours.items() if group["weight_decay"] != decays[name]} == group_norms
    assert {group["weight_decay"] for group in ours.values()} == {0.0, 0.1}
    assert group_norms
    options = FitOptions(train=TrainOptions(max_steps=12, batch_size=1), stage=StageOptions(3))
    assert options.clip_norm == CLIP_NORM
    assert replace(options, stage=StageOptions(1)).clip_norm == 1.0  # of adapters alone
    assert replace(options, train=replace(options.train, clip_norm=0.5)).clip_norm == 0.5


def test_groups_of_stage_3_and_their_description(model):
    hy.set_stage(hy.inject(model, hy.HyperETConfig(scheme="A+P")), 3)
    patterns = (*KEY_LAYERS, r"backbone\.language_backbone\.encoder\.ln_final")
    optimizer = build_optimizer(model, replace(OPTIONS, trunk_decay=0.5), key_layers=patterns)
    groups = {group["name"]: group for group in optimizer.param_groups}
    trunks = [f"trunk.{depth}" for depth in range(6)]
    assert sorted(groups) == ["adapters", "key_layers", "key_layers.text", "rest", "text", *trunks, "vision"]
    trained = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == len(set(trained)) == len(list(model.parameters()))
    trunk = model.backbone.vision_backbone.trunk
    at = {id(p): group["name"] for group in optimizer.param_groups for p in group["params"]}
    assert at[id(trunk.blocks[3].attn.qkv.weight)] == "trunk.1"
    assert at[id(trunk.blocks[0].mlp.fc1.weight)] == "trunk.4"
    assert at[id(trunk.patch_embed.proj.weight)] == "trunk.5"
    assert at[id(trunk.blocks[3].attn.qkv.adjustment.q.matrix.offset)] == "adapters"
    assert at[id(model.transformer.decoder.query_embed.weight)] == "key_layers"
    assert at[id(model.backbone.vision_backbone.convs[0][0].weight)] == "vision"
    said = dict(line.split(": ", 1) for line in describe_groups(optimizer))
    assert said["adapters"] == "26,624 parameters, learning rate 1, weight decay 0"
    assert said["key_layers.text"].endswith(" parameters, learning rate 5e-06, weight decay 0")
    assert re.fullmatch(
        r"[\d,]+ parameters, learning rate 2\.5e-05 to 7\.81e-07 at its lowest block, "
        r"weight decay 0\.1 on [\d,]+, 0 on [\d,]+",
        said["trunk"],
    )
    counts = [int(text.split()[0].replace(",", "")) for text in said.values()]
    assert sum(counts) == sum(p.numel() for p in model.parameters())


def test_nothing_pulls_curvatures_scalars_and_biases(model, randomized):
    """Decay alone, without gradients: only matrices move, and c stays where it was learnt."""
    config = hy.HyperETConfig(scheme="A", geometry="gyro", learn_curvature=True, residual=0.7, learn_residual=True)
    randomized(hy.inject(model, config), scale=0.05)
    hy.set_stage(model, 1)
    before = {name: p.detach().clone() for name, p in adapter_parameters(model)}
    optimizer = build_optimizer(model, replace(OPTIONS, weight_decay=0.5))
    set_learning_rates(optimizer, OPTIONS, 4, 12)
    for _, p in adapter_parameters(model):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = [name for name, p in adapter_parameters(model) if not torch.equal(p, before[name])]
    assert {name.rpartition("adjustments.")[2].split(".", 1)[1] for name in moved} == {"matrix.offset"}
    assert len(before) > len(moved)


def test_a_group_warms_up_from_its_own_start(model):
    hy.set_stage(hy.inject(model, hy.HyperETConfig()), 2)
    optimizer = build_optimizer(model, OPTIONS, key_layers=KEY_LAYERS, starts={"key_layers": 50})
    found = rates(optimizer, range(50, 55), 100)
    shares = [rate["key_layers"] / rate["adapters"] / OPTIONS.base_lr for rate in found]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_a_warm_up_may_be_a_fraction_of_the_steps_that_are_left(model):
    hy.set_stage(hy.inject(model, hy.HyperETConfig()), 2)
    options = replace(OPTIONS, warmup=0.08)
    optimizer = build_optimizer(model, options, key_layers=KEY_LAYERS, starts={"key_layers": 50})
    whole = set_learning_rates(optimizer, replace(options, warmup=0), 54, 100)
    assert options.warmup_steps(100) == 8
    assert options.warmup_steps(50) == 4
    first = set_learning_rates(optimizer, options, 0, 100)["adapters"]
    assert first == pytest.approx(1 / 8)
    found = [set_learning_rates(optimizer, options, step, 100) for step in range(50, 55)]
    shares = [rate["key_layers"] / rate["adapters"] for rate in found]
    assert shares == pytest.approx([quarter * 8e-5 for quarter in (0.25, 0.5, 0.75, 1.0, 1.0)])
    assert found[-1]["adapters"] >= whole["adapters"]
    trial = FitOptions(train=TrainOptions(max_steps=3, batch_size=1))  # a short trial runs with the defaults
    assert trial.optim.warmup_steps(3) == 0
    assert trial.optim.warmup_steps(300) == 15


def test_an_old_name_and_impossible_warm_ups(caplog):
    assert read_options(OptimizerOptions, {"warmup_steps": 7}, "optim").warmup_steps(100) == 7
    assert "optim.warmup_steps is now called optim.warmup" in caplog.text
    for value in (-0.1, 1.5, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"optim\.warmup=.*; expected a fraction below 1, or a number of steps"):
            OptimizerOptions(warmup=value)


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
    assert sum(group["name"] == "key_layers" for group in optimizer.param_groups) == 2  # with and without decay
    norms = {name: float(norm) for name, norm in gradient_norms(optimizer).items()}
    assert norms == pytest.approx({"adapters": 2 * size**0.5, "key_layers": 0.0})


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5])
def test_impossible_ratios(value):
    with pytest.raises(ConfigError, match=rf"optim\.trunk_decay={value}; expected above 0"):
        OptimizerOptions(trunk_decay=value)
