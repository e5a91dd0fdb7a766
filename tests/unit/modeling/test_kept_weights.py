"""Scheme P's adjusted weights follow every way of writing to a parameter, and are kept only where asked for."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.choices import GEOMETRIES, STRUCTURES
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.modeling.sites.trunk_qv import HyperETProjection, RowAdjustment, weights_kept

DIM = 8


def projection_of(structure: str, geometry: str) -> HyperETProjection:
    torch.manual_seed(0)
    projection = converted(nn.Linear(DIM, 3 * DIM), HyperETProjection)
    q, v = (HyperET(DIM, structure, geometry, curvature=0.5) for _ in "qv")
    projection.adjustment = RowAdjustment("trunk_qv", q, v)
    return projection.requires_grad_(False).eval()


def add_to_data(projection):
    projection.adjustment.q.matrix.offset.data.add_(0.3)


def add_to_data_of_base(projection):
    projection.weight.data.mul_(1.5)


def load(projection):
    projection.load_state_dict({name: value + 0.3 for name, value in projection.state_dict().items()})


def swap_averages(projection):
    """As an exponential moving average is put in the parameters' place."""
    for parameter in projection.parameters():
        parameter.data.copy_(parameter.data + 0.3)


def gather_again(projection):
    """As FSDP gathers other values into the very memory of before, and leaves the version as it was."""
    with torch.autograd._unsafe_preserve_version_counter(projection.weight):
        projection.weight.copy_(projection.weight + 0.3)


def exchange(projection):
    projection.weight = nn.Parameter(projection.weight + 0.3, requires_grad=False)


def move(projection):
    projection.to(torch.float64)


WRITES = (add_to_data, add_to_data_of_base, load, swap_averages, gather_again, exchange, move)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(("structure", "geometry"), list(itertools.product(STRUCTURES, GEOMETRIES)))
def test_outputs_follow_whatever_writes_to_a_weight(structure, geometry, mode):
    x = torch.randn(4, DIM, generator=torch.Generator().manual_seed(1))
    for write in WRITES:
        projection = projection_of(structure, geometry)
        with mode():
            before = projection(x)
            assert torch.equal(projection(x), before)
        with torch.no_grad():
            write(projection)
        x_now = x.to(projection.weight.dtype)
        with mode():
            after = projection(x_now)
            expected = F.linear(x_now, projection.adjustment(projection.weight), projection.bias)
        assert torch.equal(after, expected), write.__name__
        assert (after - before).abs().max() > 1e-9, write.__name__


@pytest.fixture
def computed(monkeypatch) -> list[RowAdjustment]:
    """The adjustments, once for each time that one was computed."""
    found: list[RowAdjustment] = []
    forward = RowAdjustment.forward

    def counted(self, weight, part="qkv"):
        found.append(self)
        return forward(self, weight, part)

    monkeypatch.setattr(RowAdjustment, "forward", counted)
    return found


def test_weights_are_computed_once_where_the_caller_lets_nothing_write(computed):
    projection, x = projection_of("diagonal", "lorentz"), torch.ones(1, DIM)
    with weights_kept([projection]):
        with torch.inference_mode():
            first = projection(x)
            projection(x)
        assert len(computed) == 1
        with weights_kept([projection]):  # as an evaluation within another one
            projection(x)
        assert torch.equal(projection(x), first)
        assert len(computed) == 1
        projection.adjustment.enabled = False
        assert projection.adjusted_weight() is projection.weight
        projection.adjustment.enabled = True
        projection.to(torch.float64)
        assert projection(x.double()).dtype == torch.float64
        assert len(computed) == 2
        projection.requires_grad_(True)
        assert projection.adjusted_weight().requires_grad  # a gradient is wanted: computed anew
        assert len(computed) == 3
        projection.requires_grad_(False)
    add_to_data(projection)
    assert not torch.equal(projection(x.double()).float(), first)


def test_a_copy_made_meanwhile_keeps_nothing(base, computed):
    model = hy.inject(shared_copy(base), hy.HyperETConfig(scheme="P", structure="diagonal"))
    projections = [block.attn.qkv for block in model.backbone.vision_backbone.trunk.blocks]
    pixels = torch.zeros(1, 3, 128, 128)
    with weights_kept([model]), torch.no_grad():
        for _ in range(2):
            model.backbone.forward_image(pixels)
        assert len(computed) == len(projections)
        twin = shared_copy(model)
        twin.backbone.forward_image(pixels)
        assert len(computed) == 2 * len(projections)
    with torch.no_grad():
        model.backbone.forward_image(pixels)
    assert len(computed) == 3 * len(projections)
