"""Training moves the control alone, all of it, and goes on where it stopped."""

from __future__ import annotations

import pytest
import torch
from answers import answers, equal

import sam3_hyperet as hy
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.checkpoint import load_base, save_base
from sam3_hyperet.modeling.config import SITES
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.parameters import adapter_parameters, base_state_dict
from sam3_hyperet.training.optimizer import build_optimizer, set_learning_rates
from sam3_hyperet.training.options import OptimizerOptions
from sam3_hyperet.training.stages import set_training_mode
from sam3_hyperet.training.state import read_state, restore_state, save_state

CONTROLS = {
    "lora": hy.HyperETConfig(adapter="lora"),
    "oft everywhere": hy.HyperETConfig(adapter="oft", sites=SITES, oft_block_size=4),
    "bitfit": hy.HyperETConfig(adapter="bitfit"),
}


@pytest.fixture(params=CONTROLS)
def config(request):
    return CONTROLS[request.param]


def values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def step(make_batch):
    """A function that takes an optimizer step and returns the names of the parameters whose gradient was not 0."""
    batch = make_batch([("car", [(10, 10, 50, 40), (60, 60, 100, 120)]), ("sky", []), ("red house", [(0, 0, 128, 30)])])

    def take(model, optimizer=None):
        set_training_mode(model)
        optimizer = optimizer or torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        optimizer.zero_grad()
        loss = GroundingLoss(model, LossOptions())
        loss(model, batch, model(batch))[TOTAL].backward()
        optimizer.step()
        model.eval()
        return {name for name, p in model.named_parameters() if p.grad is not None and (p.grad != 0).any()}

    return take


def test_stage_1_trains_exactly_the_control_and_gradients_reach_all_of_it(model, config, step):
    hy.inject(model, config)
    report = hy.set_stage(model, 1)
    names = {name for name, _ in adapter_parameters(model)}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == names
    sizes = hy.parameter_report(model)
    assert report.trainable == sizes["trainable"] == sizes["added"] > 0
    before, fingerprint, base = values(model), base_fingerprint(model), base_state_dict(model)
    base = {name: tensor.clone() for name, tensor in base.items()}
    reached = step(model) | step(model)
    box_head_of_random_weights = {f"transformer.decoder.bbox_embed.layers.{i}.bias" for i in (0, 1)}
    assert names - reached <= box_head_of_random_weights  # its last layer is 0 at first
    assert reached <= names
    after = values(model)
    assert {name for name in after if not torch.equal(after[name], before[name])} == reached
    assert base_fingerprint(model) == fingerprint
    assert all(torch.equal(tensor, base[name]) for name, tensor in base_state_dict(model).items())


@pytest.mark.parametrize(
    "options",
    [{"adapter": "dora", "scheme": "A+B"}, {"adapter": "ia3", "scheme": "A+B"}, {"adapter": "boft"}, {"adapter": "ln"}],
)
def test_gradients_reach_all_of_the_others(model, options, step):
    hy.set_stage(hy.inject(model, options), 1)
    names = {name for name, _ in adapter_parameters(model)}
    reached = step(model) | step(model)
    assert reached == names


def test_what_decays(model):
    """Towards 0, which for magnitudes and factors, which begin elsewhere, is not the base."""
    decayed = {}
    for adapter in ("lora", "dora", "ia3", "oft", "ln", "bitfit"):
        hy.set_stage(hy.inject(model, {"adapter": adapter}), 1)
        optimizer, found = build_optimizer(model, OptimizerOptions(weight_decay=0.1)), set()
        for group in optimizer.param_groups:
            ids = {id(p) for p in group["params"]} if group["weight_decay"] else set()
            found |= {name.split(".")[-3] for name, p in model.named_parameters() if id(p) in ids}
        decayed[adapter] = found
        hy.remove_adapter(model)
    matrices = {"lora_A", "lora_B"}
    assert decayed == {
        "lora": matrices,
        "dora": matrices,
        "oft": {"conv_3x3"},
        "ia3": set(),
        "ln": set(),
        "bitfit": set(),
    }


def test_stage_3_trains_base_and_control_and_both_are_saved(model, another, config, step, picture, tmp_path):
    hy.inject(model, config)
    hy.set_stage(model, 3)
    fingerprint = base_fingerprint(model)
    step(model)
    assert base_fingerprint(model) != fingerprint
    hy.save_adapter(model, tmp_path / "adapter.safetensors")
    save_base(model, tmp_path / "base.safetensors")
    other = another()
    load_base(other, tmp_path / "base.safetensors")
    hy.load_adapter(other, tmp_path / "adapter.safetensors")
    assert equal(answers(other, picture), answers(model, picture))


def test_a_resumed_run_is_the_same_run(model, another, config, step, tmp_path):
    def start(model):
        hy.set_stage(hy.inject(model, config), 1)
        optimizer = build_optimizer(model, OptimizerOptions(warmup=0))
        set_learning_rates(optimizer, OptimizerOptions(warmup=0), 0, 4)
        return model, optimizer

    model, optimizer = start(model)
    step(model, optimizer)
    save_state(tmp_path / "state.pt", model, optimizer, {"step": 1})
    step(model, optimizer)
    other, optimizer = start(another())
    state = read_state(tmp_path / "state.pt")
    assert state["progress"] == {"step": 1}
    restore_state(tmp_path / "state.pt", state, other, optimizer)
    step(other, optimizer)
    trained = values(other)
    assert all(torch.equal(p, trained[name]) for name, p in model.named_parameters())
    assert base_fingerprint(other) == base_fingerprint(model)
