"""The operation: the pairwise formulas, ordinary attention at first, gradients, gates in [0, 1]."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from attention_reference import literal, opened, tangents
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.adapters.attention import ATTENTION_GEOMETRIES, HyperbolicGates
from sam3_hyperet.adapters.attention_functional import MAX_ANGLE, hyperbolic_attention, unit_interval
from sam3_hyperet.adapters.module import AdapterModule

HEADS = 2

unit = st.floats(0.0, 1.0)
each_geometry = pytest.mark.parametrize("geometry", ATTENTION_GEOMETRIES)


@settings(max_examples=80, deadline=None)
@given(
    st.data(),
    st.sampled_from([1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
    st.tuples(*[st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)]),
    st.sampled_from([1, 4, 8, 32]),
    st.booleans(),
    st.integers(0, 2**20),
)
def test_equals_the_pairwise_formulas(data, c, shape, channels, masked, seed):
    batch, heads, n_queries, n_keys = shape
    gate_lists = st.lists(unit, min_size=heads, max_size=heads)
    u, g = (torch.tensor(data.draw(gate_lists), dtype=torch.float64) for _ in range(2))
    keep = None
    if masked:
        keep = torch.rand(batch, 1, 1, n_keys, generator=torch.Generator().manual_seed(seed)) < 0.6
        keep[..., 0] = True
    for dtype, longest, tolerance in ((torch.float64, 6.0, 1e-8), (torch.float32, 3.0, 1e-5)):
        sizes = ((n_queries, channels), (n_keys, channels), (n_keys, channels))
        inputs = [tangents((batch, heads, *size), longest, seed + i).to(dtype) for i, size in enumerate(sizes)]
        found = hyperbolic_attention(*inputs, (c * u).to(dtype), g.to(dtype), attn_mask=keep)
        expected = literal(*(x.double() for x in (*inputs, (c * u).to(dtype), g.to(dtype))), keep)
        assert found.dtype == dtype
        assert (found - expected).abs().max() <= tolerance * expected.abs().max().clamp_min(1e-3)


@settings(max_examples=30, deadline=None)
@given(unit, unit, st.integers(0, 2**20))
def test_the_control_is_a_temperature_and_a_squared_distance(u, g, seed):
    q, k, v = (tangents((2, 1, n, 8), 4.0, seed + i) for i, n in enumerate((5, 7, 7)))
    q_scaled, k_scaled = 8**-0.25 * q, 8**-0.25 * k
    logits = (1.0 + u) * q_scaled @ k_scaled.mT - g / 2.0 * k_scaled.square().sum(-1)[..., None, :]
    gates = HyperbolicGates(1, geometry="euclidean").double()
    with torch.no_grad():
        gates.curvature_gate.fill_(u)
        gates.distance_gate.fill_(g)
    found = gates(q, k, v)
    torch.testing.assert_close(found, logits.softmax(-1) @ v, rtol=1e-6, atol=1e-6)


def test_an_open_distance_gate_without_curvature_compares_distances():
    q, k, v = (tangents((1, HEADS, n, 8), 4.0, i) for i, n in enumerate((5, 7, 7)))
    found = hyperbolic_attention(q, k, v, torch.zeros(HEADS), torch.ones(HEADS))
    logits = -torch.cdist(8**-0.25 * q, 8**-0.25 * k).square() / 2.0
    torch.testing.assert_close(found, logits.softmax(-1) @ v)


@each_geometry
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ordinary_attention_at_first(geometry, dtype):
    q, k, v = (tangents((2, HEADS, n, 32), 30.0, i).to(dtype) for i, n in enumerate((50, 70, 70)))
    found = HyperbolicGates(HEADS, geometry=geometry)(q, k, v)
    expected = F.scaled_dot_product_attention(q, k, v)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@each_geometry
def test_gradients(geometry):
    q, k, v = (tangents((1, HEADS, n, 3), 2.0, i).requires_grad_() for i, n in enumerate((3, 4, 4)))
    gates = opened(HyperbolicGates(HEADS, 0.7, geometry == "lorentz", geometry)).double()
    names, values = zip(*gates.named_parameters(), strict=True)
    keep = torch.tensor([True, True, False, True])

    def call(q, k, v, *values):
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(gates, parameters, (q, k, v), {"attn_mask": keep.expand(3, 4)})

    assert len(values) == (3 if geometry == "lorentz" else 2)
    assert torch.autograd.gradcheck(call, (q, k, v, *values))


@pytest.mark.parametrize("gate", [0.0, 1e-30, 1e-6, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-6, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("c", [1e-6, 1e-2, 50.0])
def test_values_and_gradients_are_finite(gate, scale, c):
    inputs = [(scale * tangents((1, 1, 6, 8), 1.0, i)).float().requires_grad_() for i in range(3)]
    gates = HyperbolicGates(1, c, learn_curvature=True)
    with torch.no_grad():
        gates.curvature_gate.fill_(gate)
        gates.distance_gate.fill_(gate)
    y = gates(*inputs)
    gradients = torch.autograd.grad(y.mean(), [*inputs, *gates.parameters()])
    assert all(x.isfinite().all() for x in (y, *gradients))


def test_far_points_are_taken_at_the_largest_angle():
    c = torch.tensor([0.25])
    v = tangents((1, 1, 1, 8), 1.0, 1).float() + torch.eye(8)[0]
    for scale in (1e2, 1e10, 1e18):
        length = hyperbolic_attention(scale * v, scale * v, scale * v, c, torch.ones(1)).norm()
        assert length == pytest.approx(MAX_ANGLE / 0.5, rel=3e-2)
    near = 0.9 * MAX_ANGLE / 0.5 * F.normalize(v, dim=-1)
    torch.testing.assert_close(hyperbolic_attention(v, v, near, c, torch.ones(1)), near, rtol=1e-1, atol=1e-1)


@each_geometry
def test_every_gate_learns_from_the_start_in_one_direction(geometry):
    """The gradient at 0 is that of the unconfined gate, except where descent would make the gate negative."""
    inputs = [tangents((2, 8, n, 8), 4.0, i) for i, n in enumerate((5, 7, 7))]
    target = torch.randn(2, 8, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gates = HyperbolicGates(8, 0.5, learn_curvature=geometry == "lorentz", geometry=geometry).double()

    def gradients(sign):
        loss = sign * (gates(*inputs) * target).sum()
        return dict(zip(dict(gates.named_parameters()), torch.autograd.grad(loss, gates.parameters()), strict=True))

    down, up = gradients(1.0), gradients(-1.0)
    for name in ("curvature_gate", "distance_gate"):
        assert (down[name] <= 0.0).all()
        assert (up[name] <= 0.0).all()
        assert torch.equal((down[name] != 0.0) ^ (up[name] != 0.0), torch.ones(8, dtype=torch.bool))
        step = 1e-6
        before = (gates(*inputs) * target).sum((0, 2, 3))
        with torch.no_grad():
            getattr(gates, name).fill_(step)
            slope = ((gates(*inputs) * target).sum((0, 2, 3)) - before) / step
            getattr(gates, name).zero_()
        torch.testing.assert_close(down[name] - up[name], slope, rtol=1e-3, atol=1e-3)
    if geometry == "lorentz":
        assert down["curvature.raw"] == 0.0  # no head is curved yet
        opened(gates)
        assert gradients(1.0)["curvature.raw"] != 0.0


def test_a_gate_is_confined_and_never_stuck():
    raw = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    assert unit_interval(raw).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    (increasing,) = torch.autograd.grad(unit_interval(raw).sum(), raw)
    (decreasing,) = torch.autograd.grad(-unit_interval(raw).sum(), raw)
    assert increasing.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert decreasing.tolist() == [-1.0, -1.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_half_precision_is_rounded_only_outside(autocast):
    gates = opened(HyperbolicGates(HEADS, 0.5))
    inputs = [tangents((1, HEADS, 6, 8), 3.0, i).bfloat16() for i in range(3)]
    mask = torch.randn(6, 6).bfloat16()
    exact = gates(*(x.float() for x in inputs), attn_mask=mask.float())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast is not None):
        found = gates(*inputs, attn_mask=mask)
    assert torch.equal(found, exact.bfloat16())


def test_the_curvature_of_gates_in_half_precision():
    """Gates are rounded, the curvature is not."""
    gates = HyperbolicGates(2, curvature=0.37).bfloat16()
    with torch.no_grad():
        gates.curvature_gate.fill_(1.0)
    assert gates.statistics()["curvature"] == pytest.approx(0.37, rel=1e-5)


def test_statistics():
    gates = HyperbolicGates(2, curvature=0.25, name="encoder.0.self_attn")
    assert gates.statistics() == {"curvature": 0.0, "curvature_gate": 0.0, "distance_gate": 0.0}
    with torch.no_grad():
        gates.curvature_gate.copy_(torch.tensor([0.5, 1.5]))
        gates.distance_gate.copy_(torch.tensor([-0.5, 0.5]))
    expected = {"curvature": 0.1875, "curvature_gate": 0.75, "distance_gate": 0.25}
    assert gates.statistics() == pytest.approx(expected)
    assert isinstance(gates, AdapterModule)
    assert gates.site_name("curvature") == "encoder.0.self_attn"
    assert "encoder.0.self_attn, num_heads=2, geometry=lorentz" in repr(gates)
    assert opened(HyperbolicGates(2, geometry="euclidean")).statistics()["curvature"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"geometry": "gyro"}, "lorentz, euclidean; found 'gyro'"),
        ({"geometry": "euclidean", "learn_curvature": True}, "no curvature"),
        ({"curvature": -1.0}, "between"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HyperbolicGates(HEADS, **options)
