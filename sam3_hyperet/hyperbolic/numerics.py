"""Tolerances by dtype, the precision to compute in, and the analytic quotients f(t)/t.

Every formula in `poincare` and `lorentz` is even in the norms that it uses, so it is written with quotients such as
tanh(t)/t, which are smooth at 0 where t and its direction are not. Nothing here divides by a norm that can be 0.
"""

import math

import torch
from torch import Tensor

Scalar = float | Tensor
"""A curvature magnitude c > 0, or another factor: a float, or a tensor that broadcasts against norms."""

BALL_EPS = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 1e-3, torch.bfloat16: 1e-3}
"""Points stay within (1 − ε)/√c of the origin of the ball. fp32 cannot resolve 1 − tanh(t) beyond t = 9."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to compute in: fp32, or `dtype` where that is wider."""
    return torch.promote_types(dtype, torch.float32)


def max_norm(dtype: torch.dtype) -> float:
    """Largest normalised tangent norm √c‖v‖ whose image lies inside the projected ball: artanh(1 − ε)."""
    return math.atanh(1.0 - BALL_EPS[dtype])


def sqrt_curvature(c: Scalar) -> Scalar:
    """√c. Raises ValueError for a number that is not positive (the values of tensors are not inspected)."""
    if not isinstance(c, Tensor) and not c > 0.0:
        raise ValueError(f"curvature c must be positive (the space has curvature −c), found {c}")
    root: Scalar = c**0.5
    return root


def safe_sqrt(x: Tensor) -> Tensor:
    """√x with gradient 0, not infinity, where x is 0 (or negative by rounding, taken as 0)."""
    positive = x > torch.finfo(x.dtype).tiny
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def _quotient(t: Tensor, numerator: Tensor, order2: float, order4: float) -> Tensor:
    """numerator/t away from 0, 1 + order2·t² + order4·t⁴ near it."""
    near = t.abs() < torch.finfo(t.dtype).eps ** (1 / 6)
    t2 = torch.where(near, t, 0.0).square()
    return torch.where(near, 1.0 + t2 * (order2 + t2 * order4), numerator / torch.where(near, 1.0, t))


def tanhc(t: Tensor) -> Tensor:
    """tanh(t)/t, 1 at 0."""
    return _quotient(t, torch.tanh(t), -1 / 3, 2 / 15)


def artanhc(t: Tensor) -> Tensor:
    """artanh(t)/t, 1 at 0, for |t| < 1; beyond the last number below 1 it is constant."""
    edge = 1.0 - torch.finfo(t.dtype).eps
    t = t.clamp(-edge, edge)
    return _quotient(t, torch.atanh(t), 1 / 3, 1 / 5)


def sinhc(t: Tensor) -> Tensor:
    """sinh(t)/t, 1 at 0. Overflows with sinh (|t| > 89 in fp32)."""
    return _quotient(t, torch.sinh(t), 1 / 6, 1 / 120)


def asinhc(t: Tensor) -> Tensor:
    """asinh(t)/t, 1 at 0."""
    return _quotient(t, torch.asinh(t), -1 / 6, 3 / 40)
