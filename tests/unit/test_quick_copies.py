"""The copies that tests work on are as deep copies would be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from quick_copies import deep_copy, quick_copy
from torch import nn


class Small(nn.Module):
    """A weight under two names, a tensor that is a part of another, a hook, and a tokenizer where SAM 3 has its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3).requires_grad_(False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("whole", torch.arange(6.0))
        self.part = {"of": [self.whole[2:4]]}
        self.calls = 0
        self.register_forward_hook(counted)
        self.backbone = SimpleNamespace(language_backbone=SimpleNamespace(tokenizer=object()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def counted(module, inputs, outputs):
    module.calls += 1


@pytest.mark.parametrize("copied", [quick_copy, deep_copy])
def test_what_is_shared_stays_shared_within_a_copy(copied):
    model = Small()
    one, other = copied(model), copied(model)
    for copy in (one, other):
        assert copy.second.weight is copy.first.weight is not model.first.weight
        assert not copy.first.weight.requires_grad
        copy(torch.ones(3))
        assert (copy.calls, model.calls) == (1, 0)
        assert copy.backbone.language_backbone.tokenizer is model.backbone.language_backbone.tokenizer
    one.whole += 1
    assert one.part["of"][0].tolist() == [3, 4]
    assert other.part["of"][0].tolist() == model.part["of"][0].tolist() == [2, 3]


def test_a_quick_copy_of_the_model_is_a_deep_copy(base):
    quick, deep = quick_copy(base), deep_copy(base)
    modules = [dict(model.named_modules()) for model in (quick, deep)]
    assert modules[0].keys() == modules[1].keys()
    for one, other in zip(*(found.values() for found in modules), strict=True):
        assert type(one) is type(other)
        assert vars(one).keys() == vars(other).keys()
        assert one.training == other.training
    assert shared(quick) == shared(deep)
    own, others = (dict(model.state_dict(keep_vars=True)) for model in (quick, deep))
    assert own.keys() == others.keys()
    of_base = {tensor.data_ptr() for tensor in base.state_dict().values()}
    for name, tensor in own.items():
        assert torch.equal(tensor, others[name])
        assert (tensor.requires_grad, tensor.stride()) == (others[name].requires_grad, others[name].stride())
        assert tensor.data_ptr() not in of_base


def shared(model):
    """Names of equal memory."""
    places: dict[int, set[str]] = {}
    for name, tensor in model.state_dict().items():
        places.setdefault(tensor.data_ptr(), set()).add(name)
    return {frozenset(names) for names in places.values()}
