"""How far from the root features lie: hyperbolic radius, normalised radius, and their statistics.

Features are tangent vectors v at the origin. In HyperET's convention [1] a small radius is the fine, low level (pixels,
parts), a large one the coarse, semantic level; MERU [3] puts generic text near the root. Whether either holds for a
model is measured, not assumed (docs/evaluation.md).
"""

import torch
from torch import Tensor

from sam3_hyperet.hyperbolic.fused import norm
from sam3_hyperet.hyperbolic.numerics import Scalar, max_norm, sqrt_curvature, wide

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def radius(v: Tensor, dim: int = -1) -> Tensor:
    """d(0, exp_0(v)) = 2‖v‖, whatever the curvature; `dim` is reduced away."""
    return 2.0 * norm(v, dim).squeeze(dim)


def normalized_radius(v: Tensor, c: Scalar, dim: int = -1) -> Tensor:
    """√c‖exp_0(v)‖ = tanh(√c‖v‖) in [0, 1]: the ball norm that HyperET plots [1]; `dim` is reduced away."""
    return torch.tanh(sqrt_curvature(c) * norm(v, dim).squeeze(dim))


def is_saturated(v: Tensor, c: Scalar, dim: int = -1, dtype: torch.dtype | None = None) -> Tensor:
    """Positions at or beyond the ball's projection radius, √c‖v‖ ≥ artanh(1 − ε); `dim` is reduced away.

    `dtype` is that in which the features came, where v is a wider copy of them.
    """
    dtype, v = dtype or v.dtype, v.to(wide(v.dtype))
    length = sqrt_curvature(c) * norm(v, dim).squeeze(dim)
    # A capped vector lies at the cap up to rounding, so the comparison allows for that. In half precision it is of the
    # vector alone; the norms are computed in fp32.
    tolerance = max(16.0 * torch.finfo(v.dtype).eps, torch.finfo(dtype).eps)
    saturated: Tensor = length >= max_norm(v.dtype) * (1.0 - tolerance)
    return saturated


def saturation_rate(v: Tensor, c: Scalar, dim: int = -1, dtype: torch.dtype | None = None) -> Tensor:
    """Fraction of the positions that `is_saturated`, a scalar; the arguments as there."""
    return is_saturated(v, c, dim, dtype).to(wide(v.dtype)).mean()


@torch.no_grad()
def radius_statistics(v: Tensor, c: Scalar, dim: int = -1, dtype: torch.dtype | None = None) -> dict[str, float]:
    """`radius/mean`, `…/std`, `…/q05` … `…/q95`, the same of `normalized_radius`, `saturation`; of ≥ 1 position.

    `dtype` is as for `is_saturated`.
    """
    if v.numel() == 0:
        raise ValueError(f"radius statistics need at least one position, found shape {tuple(v.shape)}")
    dtype, v = dtype or v.dtype, v.to(wide(v.dtype))
    statistics: dict[str, float] = {}
    for name, values in (("radius", radius(v, dim)), ("normalized_radius", normalized_radius(v, c, dim))):
        ordered = values.flatten().sort().values
        statistics[f"{name}/mean"] = ordered.mean().item()
        statistics[f"{name}/std"] = ordered.std(correction=0).item()
        for q in QUANTILES:
            statistics[f"{name}/q{round(100 * q):02d}"] = ordered[round(q * (len(ordered) - 1))].item()
    statistics["saturation"] = saturation_rate(v, c, dim, dtype).item()
    return statistics
