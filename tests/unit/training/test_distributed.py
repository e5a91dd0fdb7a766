"""Sharded parameters and their optimizer's state, on a mesh of this one process: read as a whole, and put back."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Shard

import sam3_hyperet as hy
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.training.distributed import (
    gathered,
    load_optimizer_state,
    optimizer_state,
    sharding_strategy,
    split_as,
    whole_parameters,
)
from sam3_hyperet.training.options import OptimizerOptions, StageOptions
from sam3_hyperet.training.stages import Stages, set_training_mode
from sam3_hyperet.training.step import optimize


@pytest.fixture
def fabric(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # and what Fabric sets is unset again
    monkeypatch.setenv("MASTER_PORT", "0")
    fabric = Fabric(accelerator="cpu", devices=1, strategy=sharding_strategy(1))
    fabric.launch()
    yield fabric
    torch.distributed.destroy_process_group()


def begun(fabric, model, scheme="A"):
    hy.inject(model, hy.HyperETConfig(scheme=scheme))
    loss = GroundingLoss(model, LossOptions())
    stages = Stages(fabric, model, loss, StageOptions(3), OptimizerOptions(warmup=0), 9)
    stages.begin()
    stages.set_learning_rates(0)
    set_training_mode(model)
    return stages


def test_a_sharded_step_read_as_a_whole_and_put_back(fabric, another, make_batch, tmp_path):
    model = another()
    names = [name for name, _ in model.named_parameters()]
    stages = begun(fabric, model)
    assert all(p.placements == (Shard(0),) for p in model.parameters())
    assert set(names) < {name for name, _ in model.named_parameters()}
    blocks = [
        *model.backbone.vision_backbone.trunk.blocks,
        *model.backbone.language_backbone.encoder.transformer.resblocks,
    ]
    assert all(isinstance(block, FSDPModule) for block in blocks)
    groups = list(dict.fromkeys(group["name"] for group in stages.raw_optimizer.param_groups))
    assert {"adapters", "rest", "trunk.0"} <= set(groups)

    before = {name: gathered(p.detach()).clone() for name, p in model.named_parameters()}
    batch = make_batch([("car", [(20, 20, 80, 70)]), ("sky", [])])
    _, norms = optimize(fabric, stages, [batch], 1.0, by_group=True)
    assert norms.keys() == {"train/gradient_norm", *(f"train/gradient_norm/{group}" for group in groups)}
    parts = [norms[f"train/gradient_norm/{group}"] for group in groups]
    assert norms["train/gradient_norm"] == pytest.approx(sum(part**2 for part in parts) ** 0.5, rel=1e-5)
    with whole_parameters(stages.module):
        plain = dict(model.named_parameters())
        assert not any(isinstance(p, DTensor) for p in plain.values())
        assert all(p.requires_grad for p in plain.values())
        save_file({name: p.detach() for name, p in plain.items()}, tmp_path / "all.safetensors")
    moved = [name for name, p in plain.items() if not torch.equal(p, before[name])]
    assert "backbone.vision_backbone.trunk.blocks.0.attn.qkv.weight" in moved
    assert all(isinstance(p, DTensor) for p in model.parameters())
    assert optimize(fabric, stages, [batch], 1.0, by_group=False)[1] is not None  # training goes on

    state = copy.deepcopy(optimizer_state(stages.module, stages.raw_optimizer))  # one process gathers no copies
    assert not any(isinstance(v, DTensor) for one in state["state"].values() for v in one.values())
    name = state["param_groups"][0]["params"][0]
    moment = state["state"][name]["exp_avg"].clone()
    assert moment.count_nonzero()
    rates = [(group["name"], group["peak_lr"]) for group in stages.raw_optimizer.param_groups]
    for one in stages.raw_optimizer.state.values():
        one["exp_avg"].zero_()
    load_optimizer_state(stages.raw_optimizer, state)
    assert [(group["name"], group["peak_lr"]) for group in stages.raw_optimizer.param_groups] == rates
    parameter = stages.raw_optimizer.param_groups[0]["params"][0]
    found = stages.raw_optimizer.state[parameter]["exp_avg"]
    assert isinstance(found, DTensor)
    assert torch.equal(gathered(found), moment)
    assert optimize(fabric, stages, [batch], 1.0, by_group=False)[1] is not None
    assert torch.equal(gathered(split_as(before[names[0]], dict(model.named_parameters())[names[0]])), before[names[0]])


def test_blocks_that_share_an_adjustment_are_gathered_with_the_rest(fabric, another):
    model = another()
    stages = begun(fabric, model, scheme="P")
    assert not any(isinstance(block, FSDPModule) for block in model.backbone.vision_backbone.trunk.blocks)
    resblocks = model.backbone.language_backbone.encoder.transformer.resblocks
    assert all(isinstance(block, FSDPModule) for block in resblocks)
    names = [name for name, _ in model.named_parameters()]
    with whole_parameters(stages.module):
        assert [name for name, _ in model.named_parameters()] == names  # what is shared is still there once


def test_plain_parameters_are_what_they_are():
    layer = torch.nn.Linear(2, 3)
    before = dict(layer.named_parameters())
    with whole_parameters(layer):
        assert all(p is before[name] for name, p in layer.named_parameters())
    assert gathered(layer.weight) is layer.weight
    assert split_as(layer.bias, layer.bias) is layer.bias
