"""Vectors, gates and a literal quadratic reference for the tests of attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sam3_hyperet.adapters.attention import HyperbolicGates
from sam3_hyperet.hyperbolic import lorentz


def tangents(shape: tuple[int, ...], longest: float, seed: int) -> torch.Tensor:
    """Vectors in random directions, of lengths from 0 (the very first is 0) to `longest`, in float64."""
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1)
    lengths = longest * torch.rand(*shape[:-1], 1, generator=generator, dtype=torch.float64)
    lengths[(0,) * (lengths.ndim - 1)] = 0.0
    return directions * lengths


def opened(gates: HyperbolicGates, seed: int = 0) -> HyperbolicGates:
    """The gates, each somewhere inside (0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in (gates.curvature_gate, gates.distance_gate):
            gate.copy_(0.2 + 0.6 * torch.rand(gate.shape, generator=generator))
    return gates


def softmax_of(logits: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    return (logits if keep is None else logits.masked_fill(~keep, -torch.inf)).softmax(-1)


def literal(query, key, value, curvature, gate, keep=None):
    """Every pair's distance on the hyperboloid, [6]'s logits and its midpoint in ambient coordinates; float64.

    c = 0 is taken as 1e-12, which changes nothing above 1e-10. The hyperboloid's twins measure 2‖v‖, hence the halves.
    """
    c = curvature.clamp_min(1e-12).view(-1, 1, 1)
    q, k = query * query.shape[-1] ** -0.25, key * key.shape[-1] ** -0.25
    p_q, p_k, p_v = (lorentz.expmap0(x / 2.0, c) for x in (q, k, value))
    distance = lorentz.dist(p_q[..., :, None, :], p_k[..., None, :, :], c[..., None])
    inner = -2.0 / c * torch.sinh(c.sqrt() / 2.0 * distance).square()  # ⟨p_q, p_k⟩_L + 1/c
    squared_k = k.square().sum(-1)[..., None, :]
    weights = softmax_of(inner + (1.0 - gate.view(-1, 1, 1)) / 2.0 * squared_k, keep)
    mean = weights @ p_v
    midpoint = mean / (-c * lorentz.inner(mean, mean)[..., None]).sqrt()
    return 2.0 * lorentz.logmap0(midpoint, c)
