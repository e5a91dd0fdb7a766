"""Norms, scalings and inner products along one axis, for autograd and for the compiler.

Gradients are written out: taken through the squares they would overflow, and compiled they would be slow.
"""

from typing import Any

import torch
from torch import Tensor

_NORM_SCALE = 2.0**-40
"""Vectors are scaled by this power of two (exactly) before they are squared: in fp32, norms from 1e-7 to 1e31 are exact
to rounding. Smaller ones come out as 0, where every quotient f(t)/t has long reached its limit; the squares of ordinary
values stay clear of subnormal numbers, which a CPU handles a hundred times slower."""

_ROWS = 16


def norm(x: Tensor, dim: int = -1) -> Tensor:
    """‖x‖ along `dim`, which is kept with size 1. Gradient x/‖x‖, and 0 at x = 0; no overflow up to 1e30."""
    if x.dtype == torch.float16:  # has no room for the scale
        return norm(x.float(), dim).to(x.dtype)
    length: Tensor = _Norm.apply(x, dim)
    return length


class _Norm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        scaled = x * _NORM_SCALE
        if torch.compiler.is_compiling():  # the compiler fuses the product
            return dot(scaled, scaled, dim).sqrt() / _NORM_SCALE
        length: Tensor = torch.linalg.vector_norm(scaled, dim=dim, keepdim=True) / _NORM_SCALE
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
