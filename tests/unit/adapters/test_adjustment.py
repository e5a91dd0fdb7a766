"""HyperET: the identity at first, finite everywhere, one graph for the compiler, the same along any axis."""

from __future__ import annotations

import pytest
import torch

from sam3_hyperet.adapters import GEOMETRIES, STRUCTURES, HyperET
from sam3_hyperet.hyperbolic import lorentz, poincare

every_kind = pytest.mark.parametrize("structure", STRUCTURES), pytest.mark.parametrize("geometry", GEOMETRIES)


def each(test):
    for mark in every_kind:
        test = mark(test)
    return test


def moved(adjustment: HyperET, scale: float = 0.2, seed: int = 0) -> HyperET:
    """The adjustment, with its vectors and matrices moved away from where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adjustment.parameters():
            if parameter.ndim:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return adjustment


@each
@pytest.mark.parametrize("residual", [None, 0.1, 1.0, -3.0])
def test_identity_at_first(structure, geometry, residual):
    adjustment = HyperET(8, structure, geometry, residual=residual, channel_dim=1)
    scales = (0.0, 1e-20, 1e-6, 1e-3, 1.0, 10.0) if geometry == "mobius" else (0.0, 1e-20, 1e-6, 1.0, 1e3, 1e30)
    for scale in scales:
        x = scale * torch.nn.functional.normalize(torch.randn(2, 8, 3, 3), dim=1)
        assert torch.equal(adjustment(x), x)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        x = torch.randn(2, 8, 3, 3).to(dtype)
        assert torch.equal(adjustment(x), x)


@each
def test_channel_first_equals_channel_last(structure, geometry):
    x = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    last = moved(HyperET(8, structure, geometry)).double()
    first = HyperET(8, structure, geometry, channel_dim=1).double()
    first.load_state_dict(last.state_dict())
    torch.testing.assert_close(first(x.movedim(-1, 1)), last(x).movedim(-1, 1))
    strided = x.movedim(-1, 1).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(first(strided), last(x).movedim(-1, 1))


@each
def test_the_layout_is_kept(structure, geometry):
    """So that kernels behind an adjustment round as they do on the base: memory and pixels of SAM 3 are transposed."""
    tokens = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    for x, axis in (
        (tokens, -1),
        (tokens.transpose(0, 1), -1),
        (tokens.mT, 1),
        (tokens.transpose(0, 1).permute(1, 2, 0).unflatten(-1, (4, 5)), 1),
        (tokens.mT.contiguous().unflatten(-1, (4, 5)), 1),
    ):
        adjustment = HyperET(8, structure, geometry, channel_dim=axis)
        for one in (x, x.bfloat16(), x.clone().requires_grad_()):
            assert adjustment(one).stride() == one.stride()
        adjustment(one).sum().backward()
        assert one.grad.stride() == one.stride()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_equals_the_composed_primitives(structure):
    x = torch.randn(6, 8, dtype=torch.float64)
    for geometry in GEOMETRIES:
        adjustment = moved(HyperET(8, structure, geometry, curvature=0.1, residual=0.5)).double()
        M, c = adjustment.matrix.as_matrix(), adjustment.curvature()
        image = poincare.mobius_matvec(M, poincare.expmap0(x, c), c)
        if geometry == "euclidean":
            expected = x @ M.T
        elif geometry == "mobius":
            expected = poincare.logmap0(image, c)
        elif geometry == "lorentz":
            expected = lorentz.logmap0(lorentz.matvec(M, lorentz.expmap0(x, c), c), c)
        else:
            b = poincare.expmap0(adjustment.translation, c)
            expected = poincare.logmap0(poincare.mobius_add(b, image, c), c)
        torch.testing.assert_close(adjustment(x), x + 0.5 * (expected - x), rtol=1e-10, atol=1e-10)


@each
@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [
        (torch.float32, None),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, None),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, None),
        (torch.float16, torch.float16),
    ],
)
def test_values_and_gradients_are_finite(structure, geometry, dtype, autocast):
    learn = geometry != "euclidean"
    largest = 1e4 if dtype == torch.float16 else 1e30
    for c in (1e-6, 1e-2, 10.0):
        options = {"curvature": c, "learn_curvature": learn, "residual": 0.5, "learn_residual": True}
        adjustment = moved(HyperET(8, structure, geometry, channel_dim=1, **options))
        for scale in (0.0, 1e-30, 1e-8, 1e-4, 1.0, 1e2, 1e4, 1e10, 1e20, 1e30):
            if scale > largest:
                continue
            x = scale * torch.nn.functional.normalize(torch.randn(1, 8, 2, 2), dim=1)
            x[..., 0, 0] = 0.0
            x = x.to(dtype).requires_grad_()
            with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
                y = adjustment(x)
            assert y.dtype == dtype
            gradients = torch.autograd.grad(y.float().mean(), [x, *adjustment.parameters()])
            assert all(t.isfinite().all() for t in (y, *gradients)), (c, scale)


@each
def test_gradients(structure, geometry):
    adjustment = moved(
        HyperET(4, structure, geometry, 0.3, learn_curvature=geometry != "euclidean", residual=0.5, learn_residual=True)
    ).double()
    names, values = zip(*adjustment.named_parameters(), strict=True)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def call(x, *values):
        return torch.func.functional_call(adjustment, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *values))


@pytest.mark.parametrize(  # no code reads both
    ("structure", "geometry"),
    [*(("dense", geometry) for geometry in GEOMETRIES), *((one, "mobius") for one in STRUCTURES if one != "dense")],
)
def test_compiles_to_one_graph(structure, geometry):
    torch._dynamo.reset()
    adjustment = moved(HyperET(32, structure, geometry, channel_dim=1, learn_curvature=geometry != "euclidean"))
    compiled = torch.compile(adjustment, fullgraph=True, backend="aot_eager")
    results = []
    for call in (adjustment, compiled):
        x = torch.linspace(-2, 2, 2 * 32 * 6).sin().view(2, 32, 2, 3).requires_grad_()
        y = call(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *adjustment.parameters()])))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_default_compiler_agrees(geometry):
    torch._dynamo.reset()
    adjustment = moved(HyperET(32, "diagonal", geometry, channel_dim=1))
    x = torch.randn(1, 32, 4, 8, requires_grad=True)
    y = torch.compile(adjustment, fullgraph=True)(x)
    torch.testing.assert_close(y, adjustment(x), rtol=1e-5, atol=1e-5)
    parameters = [x, *adjustment.parameters()]
    compiled = torch.autograd.grad(y.square().sum(), parameters)
    eager = torch.autograd.grad(adjustment(x).square().sum(), parameters)
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4)


def test_parameters():
    def count(**options):
        return sum(p.numel() for p in HyperET(16, "diagonal", **options).parameters())

    assert count(geometry="lorentz") == 16
    assert count(geometry="lorentz", learn_curvature=True) == 17
    assert count(geometry="gyro") == 32
    assert count(geometry="euclidean", residual=0.1) == 16
    assert count(geometry="euclidean", residual=0.1, learn_residual=True) == 17
    assert set(HyperET(16, geometry="gyro", residual=0.1).state_dict()) == {
        "alpha",
        "translation",
        "matrix.offset",
        "curvature.raw",
    }


def test_a_small_change_is_learnt_from_the_start():
    """At the identity the gradient of M and of the translation is not 0."""
    adjustment = HyperET(8, "dense", "gyro")
    adjustment(torch.randn(5, 8)).square().sum().backward()
    assert adjustment.matrix.offset.grad.abs().min() > 0.0
    assert adjustment.translation.grad.abs().min() > 0.0


def test_statistics():
    adjustment = HyperET(8, "diagonal", "gyro", curvature=0.25, residual=0.1, channel_dim=1)
    figures = adjustment.statistics()
    assert figures["identity_gap"] == figures["translation"] == 0.0
    assert figures["curvature"] == pytest.approx(0.25)
    assert figures["residual"] == pytest.approx(0.1)
    with torch.no_grad():
        adjustment.matrix.offset.fill_(0.5)
    figures = adjustment.statistics(torch.ones(1, 8, 2, 2))
    assert figures["identity_gap"] == pytest.approx(0.5 * 8**0.5)
    assert figures["saturation"] == 0.0
    assert figures["radius/mean"] > 2.0 * 8**0.5


def test_says_what_it_is():
    text = repr(HyperET(8, "banded", "gyro", residual=0.1, learn_residual=True))
    for part in ("banded", "gyro", "residual=0.1 (learnable)", "0.01, fixed"):
        assert part in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"geometry": "spherical"}, "euclidean, mobius, lorentz, gyro"),
        ({"structure": "sparse"}, "diagonal, block_diagonal, banded, dense"),
        ({"curvature": -1.0}, "between"),
        ({"geometry": "euclidean", "learn_curvature": True}, "no curvature"),
        ({"learn_residual": True}, "residual"),
        ({"residual": float("nan")}, "residual=nan; expected a finite number"),
        ({"residual": float("inf")}, "residual=inf; expected a finite number"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HyperET(8, **options)


def test_impossible_inputs_are_refused():
    with pytest.raises(ValueError, match=r"8 channels along axis 1, found shape \(2, 3, 8\)"):
        HyperET(8, channel_dim=1)(torch.zeros(2, 3, 8))
    with pytest.raises(ValueError, match="found shape"):
        HyperET(8, channel_dim=1)(torch.zeros(8))
    with pytest.raises(TypeError, match="floating-point"):
        HyperET(8)(torch.zeros(8, dtype=torch.long))
