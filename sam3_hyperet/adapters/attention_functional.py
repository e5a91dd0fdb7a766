"""Hyperbolic attention at the cost of ordinary attention, equal to it while its gates are 0.

Queries, keys and values are tangent vectors at the origin of the hyperboloid of curvature −c, one c a head, lifted to
[cosh(a)/√c, sinh(a)/(√c‖v‖) v] with a = √c‖v‖. Attention weights are the softmax of Lorentzian inner products, and the
output is the Lorentz centroid of the values, the Einstein midpoint of [6, Gulcehre et al. 2019, eq. 3–4], mapped back.

Both are ordinary attention with two more channels, so no matrix of queries × keys is formed here. With z = c‖v‖²,

    S(z) = sinh(√z)/√z,  C(z) = (cosh(√z) − 1)/z,  A(z) = asinh(√z)/√z   (analytic, so c = 0 is an ordinary point)
    s = S(z) v,  κ = C(z)‖v‖²,  so that the point of v is [(1 + cκ)/√c, s];
    ⟨p_q, p_k⟩_L + 1/c = ⟨s_q, s_k⟩ − cκ_qκ_k − κ_k − κ_q, and κ_q drops out of the softmax;
    centroid: o = Σ_k w_k [s_k, κ_k],  T = 1 + c o_κ,  m = √(T² − c‖o_s‖²),  output A(c‖o_s‖²/m²) o_s/m.

As c → 0 the logits are ⟨q, k⟩ − ‖k‖²/2, minus half the squared distance. The distance gate g fades this term in: the
key's own channel is β_k = ‖k‖²((1 − g)/2 − C(z_k)), so c = 0 and g = 0 are exactly ⟨q, k⟩ and the ordinary mean.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam3_hyperet.hyperbolic.fused import dot, scale
from sam3_hyperet.hyperbolic.numerics import max_norm, wide

MAX_ANGLE = 2.0 * max_norm(torch.float32)
"""Largest a = √c‖v‖, 7.6: points further out are taken at this radius, where the ball of `poincare` ends too. There m²
is a difference of numbers near e^{2a}/4 = 10⁶, which fp32 still resolves to 0.1."""


def hyperbolic_attention(
    query: Tensor, key: Tensor, value: Tensor, curvature: Tensor, distance_gate: Tensor, **options: Any
) -> Tensor:
    """Attention by Lorentzian inner products, with Lorentz centroids: the equations at the top of this file.

    `query` is `(B, H, L, d)`, the result's shape and dtype; `key` and `value` are `(B, H, S, d)`. Queries and keys are
    multiplied by d^(−1/4) first, as ordinary logits are by d^(−1/2). `curvature`, c_h ≥ 0, and `distance_gate`, g_h in
    [0, 1], are `(H,)`. Options are `attn_mask`, `dropout_p` and `is_causal`, as for `F.scaled_dot_product_attention`.

    Norms up to 1e18 overflow nowhere, thanks to `MAX_ANGLE`. The relative error grows as ε cosh²(a)/a, with ε the
    machine precision: 1e-6 at a = 3 in fp32. So inside autocast, and for half precision, all of it is fp32, the
    attention too: one κ_k or β_k rounded to bf16 would shift a key's logit for every query.
    """
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = _in_full_precision(query, key, value)
        c, g = (per_head.to(q.dtype).view(-1, 1, 1) for per_head in (curvature, distance_gate))
        root_scale = q.shape[-1] ** -0.25
        squares = [root_scale**2 * dot(q, q), root_scale**2 * dot(k, k), dot(v, v)]
        # All positions at once: on a CPU, the time of small operations is that of starting them.
        lifted, lengths = _lift(torch.cat(squares, dim=-2), c), [square.shape[-2] for square in squares]
        scales, kappas, (_, squared_k, _) = (torch.split(per_position, lengths, dim=-2) for per_position in lifted)
        (scale_q, scale_k, scale_v), (kappa_q, kappa_k, kappa_v) = scales, kappas
        attended = _attend(
            (scale(q, root_scale * scale_q), -c * kappa_q, torch.ones_like(kappa_q)),
            (scale(k, root_scale * scale_k), kappa_k, (1.0 - g) / 2.0 * squared_k - kappa_k),
            (scale(v, scale_v), kappa_v, torch.zeros_like(kappa_v)),
            **options,
        )
        space, kappa = attended[..., : v.shape[-1]], attended[..., v.shape[-1], None]
        squared = dot(space, space)
        # (m² − 1)/c ≥ 0 for weights that sum to 1, as dropout's do not; and rounding errs to either side.
        m_squared = 1.0 + c * F.relu(2.0 * kappa + c * kappa.square() - squared)
        factor = _quotient_of_root(c * squared / m_squared, torch.asinh, _ASINH) * m_squared.rsqrt()
        return scale(space, factor).to(query.dtype)


def distance_attention(
    query: Tensor, key: Tensor, value: Tensor, temperature: Tensor, distance_gate: Tensor, **options: Any
) -> Tensor:
    """The Euclidean control: logits `temperature`·⟨q, k⟩ − g‖k‖²/2 and ordinary values; otherwise as above."""
    with torch.autocast(query.device.type, enabled=False):
        q, k, v = _in_full_precision(query, key, value)
        tau, g = (per_head.to(q.dtype).view(-1, 1, 1) for per_head in (temperature, distance_gate))
        factor = q.shape[-1] ** -0.25
        squared_k = factor**2 * dot(k, k)
        attended = _attend(
            (factor * tau * q, torch.ones_like(q[..., :1])),
            (factor * k, -g / 2.0 * squared_k),
            (v, torch.zeros_like(squared_k)),
            **options,
        )
        return attended[..., : v.shape[-1]].to(query.dtype)


def unit_interval(gate: Tensor) -> Tensor:
    """`gate` clamped to [0, 1] with a projected gradient: 0 only where a descent step would leave the interval."""
    clamped: Tensor = _UnitInterval.apply(gate)
    return clamped


class _UnitInterval(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(gate: Tensor) -> Tensor:
        return gate.clamp(0.0, 1.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (gate,) = ctx.saved_tensors
        leaves = ((gate <= 0.0) & (gradient > 0.0)) | ((gate >= 1.0) & (gradient < 0.0))
        return torch.where(leaves, 0.0, gradient)


def _lift(squared: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From ‖v‖²: (the factor that makes s of v, κ, ‖v‖²), with v shortened to √c‖v‖ ≤ `MAX_ANGLE` first."""
    shrink = MAX_ANGLE**2 / (c * squared).clamp_min(MAX_ANGLE**2)
    squared = shrink * squared
    # With S(z/4): C(z) = S(z/4)²/2, free of cancellation, and S(z) = S(z/4) cosh(√z/2).
    half = _quotient_of_root(c * squared / 4.0, torch.sinh, _SINH)
    kappa = half.square() * squared / 2.0
    cosh_half = (1.0 + c * kappa / 2.0).sqrt()
    return shrink.sqrt() * half * cosh_half, kappa, squared


_SINH, _ASINH = (1 / 6, 1 / 120, 1 / 5040), (-1 / 6, 3 / 40, -5 / 112)


def _quotient_of_root(z: Tensor, f: Callable[[Tensor], Tensor], series: tuple[float, float, float]) -> Tensor:
    """f(√z)/√z for z ≥ 0; near 0 by its Taylor series, whose gradient in z is finite where that of √z is not."""
    near = z < torch.finfo(z.dtype).eps ** 0.25
    root = torch.where(near, 1.0, z).sqrt()
    first, second, third = series
    return torch.where(near, 1.0 + z * (first + z * (second + z * third)), f(root) / root)


def _in_full_precision(*tensors: Tensor) -> list[Tensor]:
    return [x.to(wide(x.dtype)) for x in tensors]


def _attend(*parts: Sequence[Tensor], attn_mask: Tensor | None = None, **options: Any) -> Tensor:
    """Unscaled attention of queries, keys and values, each given in parts along the channel axis."""
    first = parts[0][0]
    # CUDA's kernels need a multiple of 8 channels; a CPU only pays for them.
    free = -sum(part.shape[-1] for part in parts[0]) % 8 if first.is_cuda else 0
    q, k, v = (F.pad(torch.cat(list(part), dim=-1), (0, free)) if free else torch.cat(list(part), -1) for part in parts)
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask, scale=1.0, **options)
