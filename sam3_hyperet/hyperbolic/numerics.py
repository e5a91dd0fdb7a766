"""Numerical ground: norms that do not overflow, the analytic quotients f(t)/t, one table of tolerances.

Every formula in `poincare` and `lorentz` is even in the norms that it uses, so it is written with quotients
such as tanh(t)/t, which are smooth at 0 where t and its direction are not. Nothing here divides by a norm
that can be 0.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Scalar = float | Tensor
"""A curvature magnitude c > 0, or another factor: a float, or a tensor that broadcasts against norms."""

BALL_EPS = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 1e-3, torch.bfloat16: 1e-3}
"""Points stay within (1 − ε)/√c of the origin of the ball. fp32 cannot resolve 1 − tanh(t) beyond t = 9."""

NORM_SCALE = 2.0**-40
"""Vectors are scaled by this power of two (exactly) before they are squared: in fp32, norms from 1e-7 to
1e31 are exact to rounding. Smaller ones come out as 0, where every quotient f(t)/t has long reached its
limit; the squares of ordinary values stay clear of subnormal numbers, which a CPU handles a hundred times slower."""


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


def norm(x: Tensor, dim: int = -1) -> Tensor:
    """‖x‖ along `dim`, which is kept with size 1. Gradient x/‖x‖, and 0 at x = 0; no overflow up to 1e30."""
    length: Tensor = _Norm.apply(x, dim)
    return length


class _Norm(torch.autograd.Function):
    """The norm with its gradient written out: taken through the squares, it would overflow before the norm."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        scaled = x * NORM_SCALE
        if torch.compiler.is_compiling():  # the compiler fuses the product
            return dot(scaled, scaled, dim).sqrt() / NORM_SCALE
        length: Tensor = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True) / NORM_SCALE
        return length

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, length = ctx.saved_tensors
        zero = length == 0.0
        return x * _once(torch.where(zero, 0.0, gradient / torch.where(zero, 1.0, length))), None


def scale(v: Tensor, factor: Tensor, dim: int = -1) -> Tensor:
    """factor · v, with one factor a position: `factor` has size 1 along `dim`, and v broadcasts over its positions."""
    scaled: Tensor = _Scale.apply(v, _once(factor), dim)
    return scaled


class _Scale(torch.autograd.Function):
    """The product with its gradient written out, for the sake of `dot`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, factor: Tensor, dim: int) -> Tensor:
        return factor * v

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.dim = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        v, factor = ctx.saved_tensors
        return (factor * gradient).sum_to_size(v.shape), dot(gradient, v, ctx.dim), None


def dot(x: Tensor, y: Tensor, dim: int = -1) -> Tensor:
    """⟨x, y⟩ along `dim`, which is kept with size 1.

    Compiled for the CPU, and with channels far apart in memory, it takes two steps: the compiler walks down all
    channels of sixteen positions at once, and a few rows at a time is what caches can follow.
    """
    product = x * y
    axis = dim % product.ndim
    before, size, after = product.shape[:axis], product.shape[axis], product.shape[axis + 1 :]
    if _compiling_for_cpu(x) and after and size % _ROWS == 0:
        product = product.reshape(*before, _ROWS, size // _ROWS, *after).sum(axis + 1)
    return product.sum(axis, keepdim=True)


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


_ROWS = 16


def _compiling_for_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and torch.compiler.is_dynamo_compiling()


@torch.library.custom_op("sam3_hyperet::once", mutates_args=())
def _stored(x: Tensor) -> Tensor:
    return x.clone()


@_stored.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


_stored.register_autograd(lambda _, gradient: _stored(gradient))


def _once(x: Tensor) -> Tensor:
    """x itself; for the compiler's CPU backend a wall: compute x (and its gradient) once and store it.

    Without it the compiler inlines a per-position factor into the loop over channels, and evaluates its logarithm and
    exponential once per channel: 256 times for an FPN feature. On CUDA one kernel does it all, better without a wall.
    """
    if _compiling_for_cpu(x):
        wall: Tensor = _stored(x)
        return wall
    return x
