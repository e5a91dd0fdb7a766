"""The hyperboloid's primitives, and that they are the ball's in other coordinates."""

from __future__ import annotations

import torch
from ball_samples import close, curvatures, seeds, tangents
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.hyperbolic import lorentz, poincare

PROPERTY = settings(max_examples=25, deadline=None)


@given(seeds, curvatures)
@PROPERTY
def test_the_models_are_isometric(seed, c):
    v, w = tangents(seed, c), tangents(seed + 1, c)
    x, y = poincare.expmap0(v, c), poincare.expmap0(w, c)
    p, q = lorentz.expmap0(v, c), lorentz.expmap0(w, c)
    close(poincare.lift(x, c), p, c, 1e-9)
    close(lorentz.lower(p, c), x, c)
    close(lorentz.dist(p, q, c), poincare.dist(x, y, c), c, 1e-9)
    close(lorentz.dist0(p, c), 2.0 * v.norm(dim=-1), c)
    close(lorentz.logmap0(p, c), v, c)


@given(seeds, curvatures)
@PROPERTY
def test_points_lie_on_the_hyperboloid(seed, c):
    p = lorentz.expmap0(tangents(seed, c), c)
    on_it = torch.full((len(p),), -1.0, dtype=p.dtype)
    torch.testing.assert_close(c * lorentz.inner(p, p), on_it, rtol=1e-8, atol=1e-8)
    close(lorentz.project(p, c), p, c)


@given(seeds, curvatures)
@PROPERTY
def test_maps_at_any_point_are_inverse(seed, c):
    x, y = lorentz.expmap0(tangents(seed, c), c), lorentz.expmap0(tangents(seed + 1, c), c)
    v = lorentz.logmap(x, y, c)
    close(lorentz.expmap(x, v, c), y, c, 1e-7)
    close(lorentz.inner(x, v) * c**0.5, torch.zeros(len(x)).to(v), c, 1e-8)  # tangent
    close(lorentz.inner(v, v).clamp_min(0.0).sqrt(), lorentz.dist(x, y, c), c, 1e-7)


@given(seeds, curvatures, st.floats(0.0, 1.0))
@PROPERTY
def test_a_boost_is_a_gyro_translation(seed, c, length):
    v, b = tangents(seed, c), length * tangents(seed + 1, c)
    moved = lorentz.boost(b, lorentz.expmap0(v, c), c)
    translated = poincare.mobius_add(poincare.expmap0(b, c), poincare.expmap0(v, c), c)
    close(lorentz.lower(moved, c), translated, c, 1e-9)
    origin = lorentz.expmap0(torch.zeros_like(b), c)
    close(lorentz.logmap0(lorentz.boost(b, origin, c), c), b, c)


@given(seeds, curvatures)
@PROPERTY
def test_a_rotation_of_the_space_part_is_an_isometry(seed, c):
    Q, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    p, q = lorentz.expmap0(tangents(seed, c), c), lorentz.expmap0(tangents(seed + 1, c), c)
    close(lorentz.dist(lorentz.matvec(Q, p, c), lorentz.matvec(Q, q, c), c), lorentz.dist(p, q, c), c, 1e-8)


def test_gradients_at_coinciding_points():
    p = lorentz.expmap0(torch.zeros(2, 3), 1.0).requires_grad_()
    for output in (lorentz.dist(p, p.detach(), 1.0), lorentz.dist0(p, 1.0), lorentz.logmap(p, p.detach(), 1.0)):
        (gradient,) = torch.autograd.grad(output.sum(), p)
        assert gradient.isfinite().all()
