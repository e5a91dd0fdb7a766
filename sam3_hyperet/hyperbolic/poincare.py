"""The Poincaré ball of curvature −c: reference primitives, readable and exact.

Points x satisfy ‖x‖ < 1/√c; the metric is λ_x² times the Euclidean one, λ_x = 2/(1 − c‖x‖²), so a tangent vector v at
the origin has length 2‖v‖. All tensors are `(..., D)` with the geometry along the last axis and broadcast over the
others; c is a positive float or a tensor that broadcasts against `(..., 1)`. Distances and factors come back without
the last axis. Every function is differentiable with finite gradients, at the origin and at coinciding points too.
Functions that return points project them (see `project`); a float c that is not positive raises ValueError.
Equations: Ganea, Bécigneul, Hofmann, "Hyperbolic Neural Networks", 2018 [2].
"""

import torch
from torch import Tensor

from sam3_hyperet.hyperbolic.fused import norm
from sam3_hyperet.hyperbolic.numerics import BALL_EPS, Scalar, artanhc, sqrt_curvature, tanhc


def project(x: Tensor, c: Scalar) -> Tensor:
    """x pulled back radially to ‖x‖ ≤ (1 − ε)/√c where it lies beyond; ε by dtype (`BALL_EPS`)."""
    limit = (1.0 - BALL_EPS[x.dtype]) / sqrt_curvature(c)
    length = norm(x)
    beyond = length > limit
    return torch.where(beyond, x * (limit / torch.where(beyond, length, 1.0)), x)


def conformal_factor(x: Tensor, c: Scalar) -> Tensor:
    """λ_x = 2 / (1 − c‖x‖²) [2, §2.2]; `(..., D)` → `(...)`, 2 at the origin."""
    return _conformal_factor(x, c).squeeze(-1)


def mobius_add(x: Tensor, y: Tensor, c: Scalar) -> Tensor:
    """Möbius addition [2, eq. 4], the left translation of y by x; not commutative, inverse −x, neutral element 0.

    x ⊕ y = ((1 + 2c⟨x,y⟩ + c‖y‖²) x + (1 − c‖x‖²) y) / (1 + 2c⟨x,y⟩ + c²‖x‖²‖y‖²)
    """
    return project(_mobius_add(x, y, c), c)


def mobius_scalar_mul(r: Scalar, x: Tensor, c: Scalar) -> Tensor:
    """r ⊗ x = tanh(r artanh(√c‖x‖)) x / (√c‖x‖) [2, eq. 6]: r times as far from the origin."""
    length = sqrt_curvature(c) * norm(x)
    ratio = r * artanhc(length)
    return project(ratio * tanhc(ratio * length) * x, c)


def mobius_matvec(M: Tensor, x: Tensor, c: Scalar) -> Tensor:
    """M ⊗ x = tanh(‖Mx‖/‖x‖ · artanh(√c‖x‖)) Mx / (√c‖Mx‖) [2, eq. 27], which is exp_0(M log_0 x); 0 where Mx = 0.

    M is `(D', D)`, x `(..., D)`; returns `(..., D')`.
    """
    root = sqrt_curvature(c)
    image = (x * artanhc(root * norm(x))) @ M.mT
    return project(tanhc(root * norm(image)) * image, c)


def expmap(x: Tensor, v: Tensor, c: Scalar) -> Tensor:
    """exp_x(v) = x ⊕ (tanh(√c λ_x‖v‖/2) v / (√c‖v‖)) [2, lemma 2]: along the geodesic for time 1."""
    half = _conformal_factor(x, c) / 2.0
    return mobius_add(x, half * tanhc(half * (sqrt_curvature(c) * norm(v))) * v, c)


def logmap(x: Tensor, y: Tensor, c: Scalar) -> Tensor:
    """log_x(y) = 2/(√c λ_x) artanh(√c‖−x ⊕ y‖) (−x ⊕ y)/‖−x ⊕ y‖ [2, lemma 2]; the inverse of exp_x."""
    step = _mobius_add(-x, y, c)
    return 2.0 / _conformal_factor(x, c) * artanhc(sqrt_curvature(c) * norm(step)) * step


def expmap0(v: Tensor, c: Scalar) -> Tensor:
    """exp_0(v) = tanh(√c‖v‖) v / (√c‖v‖) [2, eq. 8]."""
    return project(tanhc(sqrt_curvature(c) * norm(v)) * v, c)


def logmap0(y: Tensor, c: Scalar) -> Tensor:
    """log_0(y) = artanh(√c‖y‖) y / (√c‖y‖) [2, eq. 8]."""
    return artanhc(sqrt_curvature(c) * norm(y)) * y


def dist(x: Tensor, y: Tensor, c: Scalar) -> Tensor:
    """d(x, y) = 2/√c artanh(√c‖−x ⊕ y‖) [2, eq. 5]; `(..., D)`, `(..., D)` → `(...)`."""
    return dist0(_mobius_add(-x, y, c), c)


def dist0(x: Tensor, c: Scalar) -> Tensor:
    """d(0, x) = 2/√c artanh(√c‖x‖), so that d(0, exp_0(v)) = 2‖v‖; `(..., D)` → `(...)`."""
    length = norm(x)
    return (2.0 * artanhc(sqrt_curvature(c) * length) * length).squeeze(-1)


def lift(x: Tensor, c: Scalar) -> Tensor:
    """[(1 + c‖x‖²)/√c, 2x] / (1 − c‖x‖²), the point of the hyperboloid above x: the inverse of `lorentz.lower`."""
    factor = _conformal_factor(x, c)
    return torch.cat([(factor - 1.0) / sqrt_curvature(c), factor * x], dim=-1)


def _conformal_factor(x: Tensor, c: Scalar) -> Tensor:
    """λ_x with the last axis kept, the denominator no closer to 0 than a projected point's."""
    return 2.0 / (1.0 - c * x.square().sum(-1, keepdim=True)).clamp_min(BALL_EPS[x.dtype])


def _mobius_add(x: Tensor, y: Tensor, c: Scalar) -> Tensor:
    """x ⊕ y, not projected: distances need what lies between the projection radius and the edge."""
    sqrt_curvature(c)
    xy, x2, y2 = (product.sum(-1, keepdim=True) for product in (x * y, x.square(), y.square()))
    numerator = (1.0 + 2.0 * c * xy + c * y2) * x + (1.0 - c * x2) * y
    denominator = 1.0 + 2.0 * c * xy + c**2 * x2 * y2
    return numerator / denominator.clamp_min(torch.finfo(x.dtype).tiny)
