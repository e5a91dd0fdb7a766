"""Training mode by what trains: a frozen base drops nothing, however often the model is told to train."""

from __future__ import annotations

import pytest
from micro_model import MICRO

import sam3_hyperet as hy
from sam3_hyperet.adapters.module import AdapterModule
from sam3_hyperet.modeling.build import assemble

STEERING = {"", "transformer.encoder", "transformer.decoder"}  # the root, and what only recomputes activations
ADAPTERS = [
    *({"scheme": scheme} for scheme in ("A", "B", "C", "P")),
    {"scheme": "A", "adapter": "boft"},
    {"adapter": "ln"},
]


@pytest.fixture(scope="module")
def dropping():
    """A micro model with the official rates of dropout and drop path."""
    assert MICRO.dropout == MICRO.drop_path == 0.1
    return assemble(MICRO).eval()


def in_training(model):
    return {name for name, module in model.named_modules() if module.training}


def added(model):
    adapters = [module for module in model.modules() if isinstance(module, AdapterModule)]
    parts = {part for adapter in adapters for part in adapter.modules()}
    return {name for name, module in model.named_modules() if module in parts}


@pytest.mark.parametrize("options", ADAPTERS, ids=str)
def test_a_frozen_base_stays_in_evaluation_mode(dropping, copy_of, options):
    model = hy.inject(copy_of(dropping), options)
    hy.set_stage(model, 1)
    assert model.train() is model
    model.eval()
    assert not in_training(model)
    model.train()
    tuned = {name.rpartition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert in_training(model) <= STEERING | added(model) | tuned
    assert model.training
    droppers = [m for m in model.modules() if "Drop" in type(m).__name__]
    assert len(droppers) > 10
    assert not any(module.training for module in droppers)


def test_what_trains_drops(dropping, copy_of):
    model = hy.inject(copy_of(dropping), {"scheme": "A"})
    hy.set_stage(model, 3)
    assert in_training(model.train()) == {name for name, _ in model.named_modules()}
