"""The hyperboloid (Lorentz model) of curvature −c: the Poincaré primitives' twins, with no edge.

A point p = [t, s] is `(..., D + 1)`, time t first, with ⟨p,p⟩_L = ‖s‖² − t² = −1/c and t > 0. Tangent vectors at the
origin o = [1/√c, 0] are `(..., D)` and mean the same as in `poincare` (v has length 2‖v‖), so `lorentz.expmap0(v, c)`
is `poincare.lift(poincare.expmap0(v, c), c)`; at any other point a tangent vector is ambient, `(..., D + 1)`, with
⟨p,v⟩_L = 0 and length √⟨v,v⟩_L. c is a positive float or a tensor that broadcasts against `(..., 1)`; a float that is
not positive raises ValueError. Coordinates grow as e^{2√c‖v‖}: in fp32 they overflow beyond √c‖v‖ = 44; `closed_form`
does not. Conventions follow Desai et al., "Hyperbolic Image-Text Representations" (MERU), 2023 [3], but for the radius
2‖v‖.
"""

import torch
from torch import Tensor

from sam3_hyperet.hyperbolic.fused import norm
from sam3_hyperet.hyperbolic.numerics import Scalar, asinhc, safe_sqrt, sinhc, sqrt_curvature


def inner(x: Tensor, y: Tensor) -> Tensor:
    """⟨x, y⟩_L = ⟨s_x, s_y⟩ − t_x t_y [3, eq. 1]; `(..., D + 1)` twice → `(...)`."""
    return _inner(x, y).squeeze(-1)


def project(x: Tensor, c: Scalar) -> Tensor:
    """x with its time recomputed from its space part, t = √(1/c + ‖s‖²) [3, eq. 3]: onto the hyperboloid."""
    return _with_time(x[..., 1:], c)


def expmap0(v: Tensor, c: Scalar) -> Tensor:
    """exp_o(v) = [cosh(2√c‖v‖)/√c, sinh(2√c‖v‖)/(√c‖v‖) v], of [3, eq. 7, with 2v]; `(..., D)` → `(..., D + 1)`."""
    root = sqrt_curvature(c)
    angle = 2.0 * root * norm(v)
    return torch.cat([torch.cosh(angle) / root, 2.0 * sinhc(angle) * v], dim=-1)


def logmap0(x: Tensor, c: Scalar) -> Tensor:
    """log_o([t, s]) = asinh(√c‖s‖)/(2√c‖s‖) · s; the inverse of `expmap0`, `(..., D + 1)` → `(..., D)`."""
    space = x[..., 1:]
    return asinhc(sqrt_curvature(c) * norm(space)) / 2.0 * space


def expmap(x: Tensor, v: Tensor, c: Scalar) -> Tensor:
    """exp_x(v) = cosh(√c‖v‖_L) x + sinh(√c‖v‖_L)/(√c‖v‖_L) · v [3, eq. 5]; v ambient and tangent at x."""
    angle = sqrt_curvature(c) * safe_sqrt(_inner(v, v))
    return project(torch.cosh(angle) * x + sinhc(angle) * v, c)


def logmap(x: Tensor, y: Tensor, c: Scalar) -> Tensor:
    """log_x(y) = √c d/sinh(√c d) · (y + c⟨x,y⟩_L x), d = d(x, y) [3, eq. 8]; ambient and tangent at x."""
    tangent = y + c * _inner(x, y) * x
    return tangent / sinhc(sqrt_curvature(c) * _dist(x, y, c))


def dist(x: Tensor, y: Tensor, c: Scalar) -> Tensor:
    """d(x, y) = arccosh(−c⟨x,y⟩_L)/√c [3, eq. 4] = 2/√c asinh(√c/2 ‖x − y‖_L), exact for close points; → `(...)`."""
    return _dist(x, y, c).squeeze(-1)


def dist0(x: Tensor, c: Scalar) -> Tensor:
    """d(o, x) = asinh(√c‖s‖)/√c, so that d(o, exp_o(v)) = 2‖v‖; `(..., D + 1)` → `(...)`."""
    length = norm(x[..., 1:])
    return (asinhc(sqrt_curvature(c) * length) * length).squeeze(-1)


def matvec(M: Tensor, x: Tensor, c: Scalar) -> Tensor:
    """M applied to the space part, the time recomputed [5]: [√(1/c + ‖Ms‖²), Ms]; M is `(D', D)`."""
    return _with_time(x[..., 1:] @ M.mT, c)


def boost(b: Tensor, x: Tensor, c: Scalar) -> Tensor:
    """The Lorentz boost that carries the origin to exp_o(b): the hyperboloid's form of y ↦ exp_0(b) ⊕ y.

    With n = ‖b‖, u = b/n:  s' = s + ((cosh 2√c n − 1)⟨s,u⟩ + sinh(2√c n) t) u. An isometry. b is `(..., D)`.
    """
    time, space = x[..., :1], x[..., 1:]
    along, out = boost_coefficients(b, c)
    return _with_time(space + (along * (space * b).sum(-1, keepdim=True) + out * time) * b, c)


def boost_coefficients(b: Tensor, c: Scalar, dim: int = -1) -> tuple[Tensor, Tensor]:
    """((cosh 2√c n − 1)/n², sinh(2√c n)/n) with n = ‖b‖ along `dim` (kept); smooth at b = 0."""
    root = sqrt_curvature(c)
    angle = root * norm(b, dim)
    return 2.0 * c * sinhc(angle).square(), 2.0 * root * sinhc(2.0 * angle)


def lower(x: Tensor, c: Scalar) -> Tensor:
    """The point of the ball below [t, s]: s / (1 + √c t); the inverse of `poincare.lift`, an isometry."""
    return x[..., 1:] / (1.0 + sqrt_curvature(c) * x[..., :1])


def _with_time(space: Tensor, c: Scalar) -> Tensor:
    root = sqrt_curvature(c)
    time = torch.hypot(norm(space), torch.ones_like(space[..., :1]) / root)
    return torch.cat([time, space], dim=-1)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    product = x * y
    return product[..., 1:].sum(-1, keepdim=True) - product[..., :1]


def _dist(x: Tensor, y: Tensor, c: Scalar) -> Tensor:
    chord = safe_sqrt(_inner(x - y, x - y))
    return asinhc(sqrt_curvature(c) / 2.0 * chord) * chord
