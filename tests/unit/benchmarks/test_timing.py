"""Paired timings: turns, ratios within a turn, and a process for each measurement."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from benchmarks import timing
from sam3_hyperet.errors import ConfigError, DataError


def test_calls_take_turns_and_the_first_turn_does_not_count():
    order = []
    calls = {name: lambda name=name: order.append(name) or float(len(order)) for name in ("a", "b")}
    times = timing.in_turn(calls, 3, {"b": 1})
    assert order == ["a", "b", "a", "b", "a", "a"]
    assert times == {"a": [3.0, 5.0, 6.0], "b": [4.0]}


def test_a_ratio_is_the_median_of_those_within_a_turn():
    assert timing.ratio([2.0, 90.0, 8.0], [1.0, 30.0, 2.0]) == 3.0
    assert timing.ratio([2.0, 90.0, 8.0], [1.0]) == 2.0


def test_forward_backward_leaves_the_inputs_and_renews_the_gradients():
    layer, x = nn.Linear(3, 3), torch.randn(2, 3)
    assert timing.forward_backward(layer, x) >= 0
    first = layer.weight.grad.clone()
    timing.forward_backward(layer, x)
    assert torch.equal(layer.weight.grad, first)
    assert x.grad is None
    assert not x.requires_grad


def test_threads_and_the_generator_are_restored():
    before = torch.get_num_threads(), torch.random.get_rng_state()
    with timing.threads(1):
        first = torch.randn(3)
    with timing.threads(1):
        assert torch.equal(torch.randn(3), first)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])


def fail():
    raise ConfigError("no such depth")


def test_a_process_of_its_own():
    pid, peak = timing.in_process(os.getpid, "fork")
    assert pid != os.getpid()
    assert 0 < peak < 64
    with pytest.raises(ConfigError, match="no such depth"):
        timing.in_process(fail, "fork")
    with pytest.raises(DataError, match="ended early, with exit status 3"):
        timing.in_process(lambda: os._exit(3), "fork")
