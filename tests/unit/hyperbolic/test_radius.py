"""Radii of tangent features and their statistics."""

from __future__ import annotations

import pytest
import torch

from sam3_hyperet.hyperbolic import (
    closed_form,
    lorentz,
    normalized_radius,
    poincare,
    radius,
    radius_statistics,
    saturation_rate,
)


def test_radii_are_those_of_the_ball():
    v, c = torch.randn(7, 3, dtype=torch.float64), 0.3
    x = poincare.expmap0(v, c)
    torch.testing.assert_close(radius(v), poincare.dist0(x, c))
    torch.testing.assert_close(normalized_radius(v, c), c**0.5 * x.norm(dim=-1))


@pytest.mark.parametrize("scale", [1e-2, 1.0, 30.0])
def test_half_precision_follows_float32(scale):
    v = scale * torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    results = []
    for x in (v.half().requires_grad_(), v.half().float().requires_grad_()):
        values = [radius(x), normalized_radius(x, 0.01), poincare.dist0(poincare.expmap0(x / scale, 0.01), 0.01)]
        values += [closed_form.mobius(9.0 * x, 0.01), closed_form.lorentz(x, 2.0 * x, 0.01)]
        values += [lorentz.expmap0(x / scale, 0.01)]
        gradients = [torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for value in values]
        results.append([*values, *gradients])
    for half, single in zip(*results, strict=True):
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.float(), single, rtol=0.02, atol=1e-3 + 0.01 * single.abs().max().item())


def test_half_precision_at_the_origin():
    x = torch.zeros(2, 3, dtype=torch.float16, requires_grad=True)
    for value in (radius(x), closed_form.mobius(x, 0.01), closed_form.lorentz(x, 2.0 * x, 0.01)):
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert (value == 0.0).all()
        assert gradient.isfinite().all()


def test_channel_first():
    v = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(radius(v, dim=1), radius(v.movedim(1, -1)))
    assert normalized_radius(v, 0.1, dim=1).shape == (2, 4, 5)


def test_statistics():
    v = torch.zeros(1, 2, 1, 101)
    v[0, 0, 0] = torch.arange(101.0)
    figures = radius_statistics(v, 0.01, dim=1)
    assert figures["radius/mean"] == pytest.approx(100.0)
    assert figures["radius/q50"] == pytest.approx(100.0)
    assert figures["radius/q95"] == pytest.approx(190.0)
    assert 0.0 <= figures["normalized_radius/q05"] <= figures["normalized_radius/q95"] <= 1.0
    assert figures["saturation"] == pytest.approx(62 / 101)  # norms 39 … 100 of 0 … 100; the cap is 38.002
    assert set(radius_statistics(v.bfloat16(), 0.01, dim=1)) == set(figures)


def test_capped_features_are_saturated():
    v = 1e3 * torch.randn(50, 8)
    assert saturation_rate(closed_form.mobius(v, 0.01), 0.01) == 1.0
    assert saturation_rate(0.001 * v, 0.01) == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_capped_features_that_were_rounded_are_saturated(dtype):
    capped = closed_form.mobius(1e3 * torch.randn(500, 8, generator=torch.Generator().manual_seed(0)), 0.01)
    rounded = capped.to(dtype)
    assert saturation_rate(rounded, 0.01) == saturation_rate(rounded.float(), 0.01, dtype=dtype) == 1.0
    assert radius_statistics(rounded, 0.01)["saturation"] == 1.0
    assert saturation_rate((0.98 * capped).to(dtype), 0.01) == 0.0


def test_no_position_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        radius_statistics(torch.zeros(0, 3), 0.1)
