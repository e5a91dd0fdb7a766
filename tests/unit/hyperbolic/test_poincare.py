"""The ball's primitives: gyrovector identities, and agreement with geoopt in float64."""

from __future__ import annotations

import pytest
import torch
from ball_samples import close, curvatures, gm, points, seeds, tangents
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.hyperbolic import lorentz, poincare

CURVATURES = (1e-6, 1e-2, 1.0, 10.0)
PROPERTY = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize("c", [1e-2, 0.3, 1.0, 10.0])
def test_agrees_with_geoopt(c):
    k = torch.tensor(-c, dtype=torch.float64)
    x, y, v = points(0, c), points(1, c), tangents(2, c)
    M = torch.randn(4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    close(poincare.mobius_add(x, y, c), gm.mobius_add(x, y, k=k), c)
    close(poincare.mobius_scalar_mul(-0.75, x, c), gm.mobius_scalar_mul(torch.tensor(-0.75).to(x), x, k=k), c)
    close(poincare.mobius_matvec(M, x, c), gm.mobius_matvec(M, x, k=k), c)
    close(poincare.expmap(x, 0.1 * v, c), gm.expmap(x, 0.1 * v, k=k), c)
    close(poincare.logmap(x, y, c), gm.logmap(x, y, k=k), c)
    close(poincare.expmap0(v, c), gm.expmap0(v, k=k), c)
    close(poincare.logmap0(x, c), gm.logmap0(x, k=k), c)
    close(poincare.dist(x, y, c), gm.dist(x, y, k=k), c)
    close(poincare.dist0(x, c), gm.dist0(x, k=k), c)
    torch.testing.assert_close(poincare.conformal_factor(x, c), gm.lambda_x(x, k=k))


@given(seeds, curvatures)
@PROPERTY
def test_gyrogroup(seed, c):
    x, y = points(seed, c), points(seed + 1, c)
    zero = torch.zeros_like(x)
    close(poincare.mobius_add(zero, x, c), x, c)
    close(poincare.mobius_add(x, -x, c), zero, c)
    close(poincare.mobius_add(-x, poincare.mobius_add(x, y, c), c), y, c, 1e-9)  # left cancellation


@given(seeds, curvatures, st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
@PROPERTY
def test_scalar_multiplication(seed, c, r, s):
    x = points(seed, c, largest=1.0)
    close(poincare.mobius_scalar_mul(1.0, x, c), x, c)
    once = poincare.mobius_scalar_mul(r * s, x, c)
    close(poincare.mobius_scalar_mul(r, poincare.mobius_scalar_mul(s, x, c), c), once, c)
    close(poincare.dist0(poincare.mobius_scalar_mul(r, x, c), c), abs(r) * poincare.dist0(x, c), c)


@given(seeds, curvatures)
@PROPERTY
def test_maps_are_inverse(seed, c):
    x, y, v = points(seed, c), points(seed + 1, c), tangents(seed + 2, c)
    close(poincare.logmap0(poincare.expmap0(v, c), c), v, c)
    close(poincare.expmap(x, poincare.logmap(x, y, c), c), y, c, 1e-8)
    origin = torch.zeros_like(v)
    close(poincare.expmap(origin, v, c), poincare.expmap0(v, c), c)
    close(poincare.logmap(origin, x, c), poincare.logmap0(x, c), c)


@given(seeds, curvatures)
@PROPERTY
def test_distance(seed, c):
    x, y, z = points(seed, c), points(seed + 1, c), points(seed + 2, c)
    close(poincare.dist(x, y, c), poincare.dist(y, x, c), c)
    assert (poincare.dist(x, z, c) <= poincare.dist(x, y, c) + poincare.dist(y, z, c) + 1e-9 / c**0.5).all()
    tangent_length = poincare.conformal_factor(x, c) * poincare.logmap(x, y, c).norm(dim=-1)
    close(tangent_length, poincare.dist(x, y, c), c, 1e-9)


@given(seeds, curvatures)
@PROPERTY
def test_radius_is_twice_the_norm(seed, c):
    v = tangents(seed, c)
    close(poincare.dist0(poincare.expmap0(v, c), c), 2.0 * v.norm(dim=-1), c)


@given(seeds, curvatures)
@PROPERTY
def test_the_papers_operator_cancels(seed, c):
    v = tangents(seed, c)
    M = torch.eye(5).to(v) + 0.2 * torch.randn(5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    close(poincare.logmap0(poincare.mobius_matvec(M, poincare.expmap0(v, c), c), c), v @ M.T, c, 1e-9)


def test_as_c_vanishes_the_space_is_flat():
    c, x, y = 1e-12, tangents(0, 1.0), tangents(1, 1.0)
    torch.testing.assert_close(poincare.mobius_add(x, y, c), x + y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(poincare.dist(x, y, c), 2.0 * (x - y).norm(dim=-1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("c", CURVATURES)
def test_projection_keeps_points_inside(c, dtype):
    x = torch.randn(20, 5, dtype=dtype) * torch.logspace(-3, 30, 20, dtype=dtype)[:, None] / c**0.5
    inside = poincare.project(x, c)
    assert (inside.norm(dim=-1) * c**0.5 < 1.0).all()
    assert torch.equal(inside[:2], x[:2])
    assert poincare.expmap0(x, c).isfinite().all()


@pytest.mark.parametrize("c", CURVATURES)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-8, 1.0, 1e30])
def test_values_and_gradients_are_finite(c, scale):
    v = (torch.randn(4, 5, generator=torch.Generator().manual_seed(0)) * scale).requires_grad_()
    x = poincare.expmap0(v, c)
    M = torch.eye(5)
    outputs = (
        x,
        poincare.logmap0(x, c),
        poincare.dist(x, x.flip(0), c),
        poincare.dist(x, x.detach(), c),
        poincare.dist0(x, c),
        poincare.mobius_matvec(M, x, c),
        poincare.mobius_scalar_mul(0.5, x, c),
        poincare.logmap(x, x.flip(0), c),
        poincare.expmap(x, v, c),
        poincare.lift(x, c),
    )
    for output in outputs:
        (gradient,) = torch.autograd.grad(output.sum(), v, retain_graph=True)
        assert output.isfinite().all()
        assert gradient.isfinite().all()


def test_gradients():
    c = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    v, w = (tangents(seed, 0.4, n=3).requires_grad_() for seed in (0, 1))

    def chain(v, w, c):
        x, y = poincare.expmap0(v, c), poincare.expmap0(w, c)
        return poincare.logmap(x, y, c), poincare.dist(x, y, c), poincare.mobius_scalar_mul(c, x, c)

    assert torch.autograd.gradcheck(chain, (v, w, c))
    assert torch.autograd.gradgradcheck(lambda v: poincare.logmap0(poincare.expmap0(v, 0.4), 0.4), (v,))


@pytest.mark.parametrize("c", [0.0, -1.0])
def test_a_curvature_that_is_not_positive_is_refused(c):
    x = torch.zeros(2)
    for call in (poincare.expmap0, poincare.logmap0, poincare.project, poincare.dist0, lorentz.expmap0):
        with pytest.raises(ValueError, match="positive"):
            call(x, c)
