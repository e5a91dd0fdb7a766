"""The fused adjustments are the composed primitives; they stay finite where those overflow."""

from __future__ import annotations

import pytest
import torch
from ball_samples import close, curvatures, gm, seeds, tangents
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.hyperbolic import closed_form, lorentz, poincare
from sam3_hyperet.hyperbolic.numerics import max_norm

PROPERTY = settings(max_examples=40, deadline=None)
scales = st.floats(-9.0, 0.3).map(lambda exponent: 10.0**exponent)


def matrix(seed: int, dim: int = 5) -> torch.Tensor:
    noise = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.eye(dim).to(noise) + 0.2 * noise


@given(seeds, curvatures, scales)
@PROPERTY
def test_fused_equals_composed(seed, c, scale):
    x, M = tangents(seed, c, largest=scale), matrix(seed)
    b = tangents(seed + 1, c, n=1, largest=0.5)[0]
    z, p, o = x @ M.T, poincare.expmap0(x, c), lorentz.expmap0(x, c)
    close(closed_form.mobius(z, c), poincare.logmap0(poincare.mobius_matvec(M, p, c), c), c)
    close(closed_form.lorentz(x, z, c), lorentz.logmap0(lorentz.matvec(M, o, c), c), c)
    gyro = closed_form.gyro(z, b, c)
    close(gyro, lorentz.logmap0(lorentz.boost(b, lorentz.expmap0(z, c), c), c), c)
    in_ball = poincare.mobius_add(poincare.expmap0(b, c), poincare.mobius_matvec(M, p, c), c)
    close(gyro, poincare.logmap0(in_ball, c), c)


@pytest.mark.parametrize("c", [1e-2, 0.3, 1.0, 10.0])
def test_fused_equals_geoopt(c):
    k = torch.tensor(-c, dtype=torch.float64)
    x, M, b = tangents(0, c), matrix(0), tangents(1, c, n=1, largest=0.5)
    image = gm.mobius_matvec(M, gm.expmap0(x, k=k), k=k)
    close(closed_form.mobius(x @ M.T, c), gm.logmap0(image, k=k), c)
    moved = gm.mobius_add(gm.expmap0(b, k=k).expand_as(image), image, k=k)
    close(closed_form.gyro(x @ M.T, b, c), gm.logmap0(moved, k=k), c)


@given(seeds, curvatures)
@PROPERTY
def test_lorentz_scales_near_the_origin_and_shifts_far_out(seed, c):
    direction = torch.nn.functional.normalize(tangents(seed, c), dim=-1) / c**0.5
    factor = 3.0
    near, far = 1e-6 * direction, 50.0 * direction
    close(closed_form.lorentz(near, factor * near, c), factor * near, c)
    shift = torch.log(torch.tensor(factor, dtype=torch.float64)) / 2.0
    close(closed_form.lorentz(far, factor * far, c), far + shift * direction, c)


@given(seeds, curvatures)
@PROPERTY
def test_gyro_is_undone_by_the_opposite_translation(seed, c):
    x, b = tangents(seed, c), tangents(seed + 1, c, n=1)
    close(closed_form.gyro(closed_form.gyro(x, b, c), -b, c), x, c, 1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mobius_caps_the_norm(dtype):
    z = torch.randn(10, 4, dtype=dtype) * torch.logspace(0, 20, 10, dtype=dtype)[:, None]
    length = closed_form.mobius(z, 0.01).norm(dim=-1)
    cap = max_norm(dtype) / 0.1
    assert (length <= cap * (1.0 + 1e-6)).all()
    torch.testing.assert_close(length[-1].item(), cap, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("c", [1e-6, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e-7, 1e-4, 1e-2, 1.0, 1e2, 1e5, 1e10, 1e20, 1e30])
@pytest.mark.parametrize("translation", [0.1, 1.0, 3.0])
def test_float32_follows_float64(scale, c, translation):
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(8, 6, generator=generator), dim=-1)
    M, b = matrix(1, 6), torch.randn(6, generator=generator)
    if translation > 0.1:  # also the hardest: what is moved back past the origin
        b = torch.nn.functional.normalize(b, dim=0)
        x[0] = torch.linalg.solve(M, -b.double())
        x[1:4] = torch.nn.functional.normalize(x[0] + torch.tensor([[1e-3], [1e-2], [1e-1]]) * x[1:4], dim=-1)
    x, b = x * scale, translation * b / c**0.5
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.to(dtype).requires_grad_() for t in (x, M, b)]
        v, m, shift = inputs
        z = v @ m.T
        outputs = [closed_form.lorentz(v, z, c), closed_form.gyro(z, shift, c)]
        outputs += torch.autograd.grad(sum(y.sum() for y in outputs), inputs)
        results.append(outputs)
    for single, double in zip(*results, strict=True):
        assert single.isfinite().all()
        torch.testing.assert_close(single.double(), double, rtol=2e-3, atol=2e-3 * double.abs().max().item() + 1e-30)


@pytest.mark.parametrize("length", [0.3, 1.0, 3.0, 3.7])
def test_a_long_translation_is_an_isometry_in_float32(length):
    """The boost carries −b to the origin: radii are distances from −b, also of what lies beside it or far behind."""
    c, generator = 0.01, torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0)
    aside = torch.randn(9, 16, generator=generator) * torch.logspace(-4, 0, 9)[:, None] / 4.0
    opposed = torch.nn.functional.normalize(aside - unit, dim=-1)
    z = torch.cat([norm * opposed / c**0.5 for norm in (0.2, 0.3, length / 2, length, length + 0.2, 4.0)])
    b = length * unit / c**0.5
    moved = closed_form.gyro(z, b, c).double().norm(dim=-1) * c**0.5
    points = (lorentz.expmap0(v.double(), c) for v in (-b, z))
    expected = lorentz.dist(*points, c) / 2.0 * c**0.5
    torch.testing.assert_close(moved, expected, rtol=5e-3, atol=5e-4)


def test_a_singular_matrix_has_finite_gradients():
    x = torch.tensor([[3e5, 0.0], [0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    y = closed_form.lorentz(x, x * torch.tensor([0.0, 1.0]), 1.0)
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


def test_gradients():
    c = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x, M = tangents(0, 0.4, n=3).requires_grad_(), matrix(0).requires_grad_()
    b = tangents(1, 0.4, n=1)[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x, M, c: closed_form.lorentz(x, x @ M.T, c), (x, M, c))
    assert torch.autograd.gradcheck(lambda x, M, b, c: closed_form.gyro(x @ M.T, b, c), (x, M, b, c))
    assert torch.autograd.gradcheck(lambda x, c: closed_form.mobius(9.0 * x, c), (x, c))
    assert torch.autograd.gradgradcheck(lambda x, b: closed_form.gyro(x, b, 0.4), (x, b))


def test_vmap():
    x = torch.randn(3, 4, 5)
    batched = torch.func.vmap(lambda v: closed_form.lorentz(v, 2.0 * v, 1.0))(x)
    torch.testing.assert_close(batched, closed_form.lorentz(x, 2.0 * x, 1.0))
