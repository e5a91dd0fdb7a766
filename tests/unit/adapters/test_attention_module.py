"""The module: every mask as the original takes it, the same parameters, linear memory, one graph."""

from __future__ import annotations

import itertools

import pytest
import torch
from attention_reference import literal, opened, tangents
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sam3_hyperet.adapters.attention import ATTENTION_GEOMETRIES, HyperbolicGates, HyperbolicMultiheadAttention

HEADS, CHANNELS = 2, 16

each_geometry = pytest.mark.parametrize("geometry", ATTENTION_GEOMETRIES)


@pytest.fixture
def no_compiled_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def ordinary(batch_first: bool = True, dropout: float = 0.0, bias: bool = True, seed: int = 0) -> nn.MultiheadAttention:
    torch.manual_seed(seed)
    attention = nn.MultiheadAttention(CHANNELS, HEADS, dropout=dropout, bias=bias, batch_first=batch_first)
    if bias:
        nn.init.normal_(attention.in_proj_bias)
    return attention.eval()


def hyperbolic(attention: nn.MultiheadAttention, open_gates: bool = True, **options) -> HyperbolicMultiheadAttention:
    gates = HyperbolicGates(HEADS, **{"curvature": 0.5, **options})
    return HyperbolicMultiheadAttention.from_attention(attention, opened(gates) if open_gates else gates)


def masks() -> list[tuple[torch.Tensor | None, torch.Tensor | None]]:
    """(key_padding_mask, attn_mask) for 2 samples, 5 queries, 7 keys: none, bool and float, 2-D and 3-D."""
    generator = torch.Generator().manual_seed(0)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[0, 4:] = padding[1, 1:3] = True
    blocked = torch.rand(5, 7, generator=generator) < 0.3
    blocked_per_head = torch.rand(2 * HEADS, 5, 7, generator=generator) < 0.3
    blocked[:, 0] = blocked_per_head[..., 0] = False
    added = [torch.randn(mask.shape, generator=generator) for mask in (padding, blocked, blocked_per_head)]
    pairs = [*itertools.product((None, padding), (None, blocked, blocked_per_head))]
    return pairs + [*itertools.product((None, added[0]), (None, added[1], added[2]))][1:]


def tokens(attention: nn.MultiheadAttention) -> list[torch.Tensor]:
    """Queries, keys and values of 2 samples, all different."""
    inputs = [tangents((2, n, CHANNELS), 4.0, i).float() for i, n in enumerate((5, 7, 7))]
    return inputs if attention.batch_first else [x.transpose(0, 1) for x in inputs]


@each_geometry
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("padding_mask", range(len(masks())))
def test_with_closed_gates_it_takes_every_mask_as_the_original_does(geometry, batch_first, padding_mask):
    padding, mask = masks()[padding_mask]
    attention = ordinary(batch_first)
    ours = hyperbolic(attention, open_gates=False, geometry=geometry)
    options = {"key_padding_mask": padding, "attn_mask": mask}
    found, weights = ours(*tokens(attention), **options)
    expected, _ = attention(*tokens(attention), **options, need_weights=False)
    assert weights is None
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    one = [x.select(0 if batch_first else 1, 1) for x in tokens(attention)]
    options["key_padding_mask"] = None if padding is None else padding[1]
    options["attn_mask"] = mask[HEADS:] if mask is not None and mask.ndim == 3 else mask
    found, _ = ours(*one, **options)
    torch.testing.assert_close(found, attention(*one, **options, need_weights=False)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_projections_and_heads_are_those_of_the_original(bias):
    """With open gates: the module is the literal attention between the original's projections."""
    attention = ordinary(bias=bias).double()
    ours = hyperbolic(attention).double()
    inputs = [x.double() for x in tokens(attention)]
    weights = attention.in_proj_weight.chunk(3)
    biases = attention.in_proj_bias.chunk(3) if bias else (0.0, 0.0, 0.0)
    projected = [x @ weight.T + b for x, weight, b in zip(inputs, weights, biases, strict=True)]
    heads = [x.view(2, -1, HEADS, CHANNELS // HEADS).transpose(1, 2) for x in projected]
    curvature = ours.gates.curvature_gate * ours.gates.curvature()
    expected = literal(*heads, curvature, ours.gates.distance_gate).transpose(1, 2).flatten(-2)
    torch.testing.assert_close(ours(*inputs)[0], attention.out_proj(expected), rtol=1e-8, atol=1e-8)


@each_geometry
def test_a_padded_key_is_an_absent_key(geometry):
    attention = ordinary()
    ours = hyperbolic(attention, geometry=geometry)
    q, k, v = tokens(attention)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[:, 4:] = True
    found, _ = ours(q, k, v, key_padding_mask=padding)
    torch.testing.assert_close(found, ours(q, k[:, :4], v[:, :4])[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, ours(q, k, v)[0], rtol=1e-2)


@pytest.mark.parametrize("padded", [True, False])
def test_the_causal_hint_changes_nothing(padded):
    attention = ordinary()
    ours = hyperbolic(attention)
    _, k, v = tokens(attention)
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
    padding = torch.zeros(2, 7, dtype=torch.bool) if padded else None
    found, _ = ours(k, k, v, key_padding_mask=padding, attn_mask=mask, is_causal=True)
    torch.testing.assert_close(found, ours(k, k, v, attn_mask=mask)[0], rtol=1e-5, atol=1e-6)
    first, _ = ours(k[:, :1], k[:, :1], v[:, :1])
    torch.testing.assert_close(found[:, :1], first, rtol=1e-5, atol=1e-6)


@each_geometry
def test_dropout_is_that_of_the_original(geometry):
    attention = ordinary(dropout=0.5).train()
    ours = hyperbolic(attention, open_gates=False, geometry=geometry)
    results = []
    for module in (attention, ours):
        torch.manual_seed(1)
        results.append(module(*tokens(attention), need_weights=False)[0])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    opened(ours.gates)
    inputs = [10.0 * x for x in tokens(attention)]
    assert all(ours(*inputs)[0].isfinite().all() for _ in range(20))
    evaluated = [ours.eval()(*inputs)[0] for _ in range(2)]
    assert torch.equal(*evaluated)


@each_geometry
@pytest.mark.parametrize("training", [True, False])
def test_disabled_it_is_the_original_to_the_last_bit(geometry, training):
    attention = ordinary(dropout=0.1).train(training)
    ours = hyperbolic(attention, geometry=geometry)
    ours.gates.enabled = False
    for padding, mask in masks():
        results = []
        for module in (attention, ours):
            torch.manual_seed(1)
            options = {"key_padding_mask": padding, "attn_mask": mask, "need_weights": False}
            results.append(module(*tokens(attention), **options))
        assert torch.equal(results[0][0], results[1][0])
        assert results[1][1] is None


def test_parameters_keep_their_names_and_tensors():
    attention = ordinary()
    ours = hyperbolic(attention, learn_curvature=True)
    base, state = attention.state_dict(keep_vars=True), ours.state_dict(keep_vars=True)
    added = {"gates.curvature_gate", "gates.distance_gate", "gates.curvature.raw"}
    assert state.keys() == base.keys() | added
    assert all(state[name] is parameter for name, parameter in base.items())
    assert isinstance(ours, nn.MultiheadAttention)
    assert not hasattr(attention, "gates")
    counts = {g: sum(p.numel() for p in HyperbolicGates(8, geometry=g).parameters()) for g in ATTENTION_GEOMETRIES}
    assert counts == {"lorentz": 16, "euclidean": 16}


def test_the_module_runs_inside_autocast():
    attention = ordinary()
    ours = hyperbolic(attention)
    exact, _ = ours(*tokens(attention), key_padding_mask=masks()[3][0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = ours(*tokens(attention), key_padding_mask=masks()[3][0])
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=5e-2, atol=5e-2)


class LargestTensor(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() // x.itemsize for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@each_geometry
@pytest.mark.parametrize("padded", [True, False])
def test_memory_is_linear_in_tokens(geometry, padded):
    attention = ordinary()
    ours = hyperbolic(attention, geometry=geometry)
    largest = {}
    for n in (512, 1024):
        x = tangents((1, n, CHANNELS), 3.0, 0).float().requires_grad_()
        padding = torch.arange(n)[None] >= n - 9 if padded else None
        with LargestTensor() as seen:
            ours(x, x, x.detach(), key_padding_mask=padding)[0].sum().backward()
        largest[n] = seen.elements
    assert largest[1024] == 2 * largest[512]
    assert largest[512] < 512**2 / 8


@each_geometry
def test_compiles_to_one_graph(no_compiled_graphs, geometry):
    attention = ordinary()
    ours = hyperbolic(attention, geometry=geometry, learn_curvature=geometry == "lorentz")
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    results = []
    for call in (ours, compiled):
        inputs = [x.clone().requires_grad_() for x in tokens(attention)]
        y, _ = call(*inputs, key_padding_mask=masks()[3][0])
        results.append([y, *torch.autograd.grad(y.square().sum(), [*inputs, *ours.parameters()])])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_default_compiler_agrees(no_compiled_graphs):
    attention = ordinary()
    ours = hyperbolic(attention)
    inputs, padding = tokens(attention), masks()[3][0]
    found, _ = torch.compile(ours, fullgraph=True)(*inputs, key_padding_mask=padding)
    torch.testing.assert_close(found, ours(*inputs, key_padding_mask=padding)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kdim": 8}, "kdim=8"),
        ({"vdim": 8}, "vdim=8"),
        ({"add_bias_kv": True}, "add_bias_kv=True"),
        ({"add_zero_attn": True}, "add_zero_attn=True"),
    ],
)
def test_unsupported_attention_is_refused(options, message):
    attention = nn.MultiheadAttention(CHANNELS, HEADS, **options)
    with pytest.raises(ValueError, match=message):
        HyperbolicMultiheadAttention.from_attention(attention, HyperbolicGates(HEADS))


def test_mistakes_are_refused():
    attention = ordinary()
    with pytest.raises(ValueError, match="2 heads; found gates for 3"):
        HyperbolicMultiheadAttention.from_attention(attention, HyperbolicGates(3))
    ours = hyperbolic(attention)
    with pytest.raises(ValueError, match="need_weights=False"):
        ours(*tokens(attention), need_weights=True)
    with pytest.raises(ValueError, match="attn_mask=None"):
        ours(*tokens(attention), is_causal=True)
