"""The moving average of what trains: its course, and that the model is what it was behind it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.training.ema import Average


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[1].requires_grad_(False)
    return model


def trained(model, step):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(step)


def test_its_course(model):
    """Of one number: an average whose decay rises from 2/11 to its own."""
    average, value = Average(model, 0.5), model[0].bias.detach().clone()
    expected, present = value, value
    for step in range(1, 30):
        trained(model, step)
        average.update(step)
        present = present + step
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * present
    assert torch.allclose(average.state_dict()["0.bias"], expected, rtol=1e-5)


def test_the_model_is_exactly_what_it_was_and_versions_tell(model):
    average = Average(model, 0.9)
    trained(model, 0.1)
    average.update(1)
    before, version = model[0].weight.detach().clone(), model[0].weight._version
    expected = average.state_dict()["0.weight"].clone()
    with average.applied():
        assert torch.equal(model[0].weight, expected)
        assert not torch.equal(model[0].weight, before)
        assert model[0].weight._version > version  # what is kept of a weight is seen to be stale
    assert torch.equal(model[0].weight, before)
    assert model[0].weight.requires_grad


def test_a_later_stage_begins_with_its_own_values(model):
    average = Average(model, 0.9)
    model[1].requires_grad_(True)
    average.follow()
    trained(model, 1.0)
    average.update(8)
    state = average.state_dict()
    assert state.keys() == dict(model.named_parameters()).keys()
    assert torch.allclose(state["1.bias"], model[1].bias - 0.5)
    other = Average(model, 0.9)
    other.load_state_dict(state)
    assert all(torch.equal(state[name], value) for name, value in other.state_dict().items())
    with pytest.raises(CheckpointError, match=r"averages other parameters than this run, first 1\.bias"):
        other.load_state_dict({name: value for name, value in state.items() if name != "1.bias"})
