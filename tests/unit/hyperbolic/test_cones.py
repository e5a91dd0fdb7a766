"""Entailment cones against the published formula, the law of cosines, and geometry in the Poincaré ball."""

from __future__ import annotations

import math

import pytest
import torch
from ball_samples import curvatures, gm, seeds, tangents
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.hyperbolic import cones, lorentz, poincare

PROPERTY = settings(max_examples=25, deadline=None)


def pair(seed, c):
    """Points of the hyperboloid, and of the ball below them."""
    v, w = tangents(seed, c), tangents(seed + 1, c)
    return (lorentz.expmap0(v, c), lorentz.expmap0(w, c)), (poincare.expmap0(v, c), poincare.expmap0(w, c))


def equal(actual, expected, tolerance=1e-7):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@given(seeds, curvatures)
@PROPERTY
def test_the_angle_is_the_published_formula(seed, c):
    (x, y), _ = pair(seed, c)
    product = c * lorentz.inner(x, y)
    cosine = (y[:, 0] + x[:, 0] * product) / (x[:, 1:].norm(dim=-1) * (product**2 - 1.0).sqrt())
    equal(cones.exterior_angle(x, y, c).cos(), cosine)


@given(seeds, curvatures)
@PROPERTY
def test_the_angle_obeys_the_law_of_cosines(seed, c):
    """cosh d(o,y) = cosh d(o,x) cosh d(x,y) − sinh d(o,x) sinh d(x,y) cos ∠oxy, sides in units of 1/√c."""
    (x, y), (p, q) = pair(seed, c)
    ox, oy, xy = (c**0.5 * d for d in (poincare.dist0(p, c), poincare.dist0(q, c), poincare.dist(p, q, c)))
    cosine = (ox.cosh() * xy.cosh() - oy.cosh()) / (ox.sinh() * xy.sinh())
    equal(math.pi - cones.exterior_angle(x, y, c), cosine.clamp(-1.0, 1.0).acos(), 1e-5)


@given(seeds, curvatures)
@PROPERTY
def test_the_angle_is_the_one_in_the_ball(seed, c):
    """The ball is conformal: angles between geodesics are those between their directions, here geoopt's."""
    (x, y), (p, q) = pair(seed, c)
    k = torch.tensor(-c, dtype=p.dtype)
    to_y, to_origin = gm.logmap(p, q, k=k), gm.logmap(p, torch.zeros_like(p), k=k)
    cosine = torch.nn.functional.cosine_similarity(to_y, -to_origin, dim=-1)
    equal(cones.exterior_angle(x, y, c).cos(), cosine)


@given(seeds, curvatures, st.floats(0.01, 1.0))
@PROPERTY
def test_the_aperture_is_that_of_the_cones_in_the_ball(seed, c, min_radius):
    """sin aper = K (1 − c‖p‖²) / (√c‖p‖) for a point p of the ball (Ganea et al. 2018), at most 1."""
    (x, _), (p, _) = pair(seed, c)
    length = c**0.5 * p.norm(dim=-1)
    expected = (min_radius * (1.0 - length**2) / length).clamp_max(1.0).asin()
    equal(cones.half_aperture(x, c, min_radius), expected, 1e-3)  # the last steps to π/2 are steep
    narrow = expected < 1.5
    equal(cones.half_aperture(x, c, min_radius)[narrow], expected[narrow], 1e-9)


@given(seeds, curvatures, st.floats(0.01, 3.0))
@PROPERTY
def test_what_lies_behind_is_inside_and_what_lies_before_is_not(seed, c, factor):
    v = tangents(seed, c)
    x, beyond, before = (lorentz.expmap0(v * k, c) for k in (1.0, 1.0 + factor, 1.0 / (1.0 + factor)))
    assert (cones.exterior_angle(x, beyond, c) < 1e-5).all()
    assert (cones.exterior_angle(x, before, c) > math.pi - 1e-5).all()
    assert (cones.outside_cone(x, beyond, c) == 0.0).all()
    expected = math.pi - cones.half_aperture(x, c)
    equal(cones.outside_cone(x, before, c), expected, 1e-5)


@given(seeds, curvatures)
@PROPERTY
def test_entailment_is_transitive(seed, c):
    """y in the cone of x, and z in that of y: then z is in the cone of x."""
    generator = torch.Generator().manual_seed(seed)
    unit = 1.0 / c**0.5

    def somewhere_behind(v):
        noise = torch.randn(300, 2, generator=generator, dtype=torch.float64)
        return v * (1.0 + torch.rand(300, 1, generator=generator, dtype=torch.float64)) + 0.1 * unit * noise

    first = unit * torch.tensor([[0.3, 0.0]], dtype=torch.float64)
    second = somewhere_behind(first)
    x, y, z = (lorentz.expmap0(v, c) for v in (first, second, somewhere_behind(second)))
    chained = (cones.outside_cone(x, y, c, 0.3) == 0.0) & (cones.outside_cone(y, z, c, 0.3) == 0.0)
    assert chained.sum() > 5
    assert (cones.outside_cone(x, z, c, 0.3)[chained] < 1e-9).all()


def test_apertures_narrow_away_from_the_origin():
    x = lorentz.expmap0(torch.linspace(0.0, 3.0, 50, dtype=torch.float64)[:, None], 1.0)
    aperture = cones.half_aperture(x, 1.0)
    assert aperture[0] == math.pi / 2.0
    assert (aperture.diff() <= 0.0).all()
    assert aperture[-1] < 1e-3


def test_the_origin_entails_everything():
    origin, y = (lorentz.expmap0(v, 0.3) for v in (torch.zeros(4, 3), torch.randn(4, 3)))
    assert (cones.outside_cone(origin, y, 0.3) == 0.0).all()


def test_gradients():
    c = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    v, w = (tangents(seed, 0.4, n=3).requires_grad_() for seed in (0, 1))

    def chain(v, w, c):
        x, y = lorentz.expmap0(v, c), lorentz.expmap0(w, c)
        return cones.exterior_angle(x, y, c), cones.half_aperture(x, c)

    assert torch.autograd.gradcheck(chain, (v, w, c))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-8, 1e-2, 1.0, 3.0])
def test_values_and_gradients_are_finite_in_single_precision(scale):
    v = (scale * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))).requires_grad_()
    x = lorentz.expmap0(v, 1.0)
    others = (x.flip(0), x.detach(), x, lorentz.expmap0(2.0 * v, 1.0), lorentz.expmap0(torch.zeros_like(v), 1.0))
    for y in others:
        output = cones.outside_cone(x, y, 1.0)
        (gradient,) = torch.autograd.grad(output.sum(), v, retain_graph=True)
        assert output.isfinite().all()
        assert gradient.isfinite().all()
        assert ((output >= 0.0) & (output <= 3.15)).all()


def test_a_point_lies_in_its_own_cone():
    x = lorentz.expmap0(torch.randn(5, 3), 0.5)
    assert (cones.exterior_angle(x, x.clone(), 0.5) == 0.0).all()
