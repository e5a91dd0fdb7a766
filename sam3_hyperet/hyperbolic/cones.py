"""Entailment cones on the hyperboloid: x entails y where y lies in the cone that opens at x, away from the origin.

Points are those of `lorentz`, p = [t, s] of shape `(..., D + 1)`; c likewise. Cones widen towards the origin: the
general lies near it, the specific beyond, in its cone.
Formulae: Desai et al., "Hyperbolic Image-Text Representations" (MERU), 2023 [3]; the cones of Ganea et al.,
"Hyperbolic Entailment Cones for Learning Hierarchical Embeddings", 2018, on the hyperboloid.
"""

import math

import torch
from torch import Tensor

from sam3_hyperet.choices import MIN_RADIUS
from sam3_hyperet.hyperbolic.fused import norm
from sam3_hyperet.hyperbolic.numerics import Scalar, sqrt_curvature


def half_aperture(x: Tensor, c: Scalar, min_radius: float = MIN_RADIUS) -> Tensor:
    """aper(x) = asin(2K / (√c‖s_x‖)) [3], π/2 where √c‖s_x‖ ≤ 2K = 2 `min_radius`; `(..., D + 1)` → `(...)`."""
    length = (sqrt_curvature(c) * norm(x[..., 1:])).squeeze(-1)
    # just inside the limit the slope of asin is infinite
    inside = length > 2.0 * min_radius * (1.0 + 4.0 * torch.finfo(x.dtype).eps ** 0.5)
    return torch.where(inside, torch.asin(2.0 * min_radius / torch.where(inside, length, 1.0)), math.pi / 2.0)


def exterior_angle(x: Tensor, y: Tensor, c: Scalar) -> Tensor:
    """ext(x, y) = π − ∠oxy, the angle at x from the ray that leaves the origin o to the geodesic to y.

    [3]: acos((t_y + t_x c⟨x,y⟩_L) / (‖s_x‖ √((c⟨x,y⟩_L)² − 1))). With u = s_x/‖s_x‖ this is the angle of the vector
    (√c(t_x⟨u,s_y⟩ − ‖s_x‖t_y), ‖s_y − ⟨u,s_y⟩u‖), the parts of log_x(y) along the ray and across it up to one factor:
    no arccosine, whose slope is infinite at 0. It is taken as 0 at y = x, and as π/2 at x = o. `(..., D + 1)` twice →
    `(...)`, in [0, π].
    """
    length = norm(x[..., 1:])
    away = length > 0.0
    u = x[..., 1:] / torch.where(away, length, 1.0)
    step = y[..., 1:] - x[..., 1:]  # differences first: near x they are exact
    outward = (u * step).sum(-1, keepdim=True)
    later = (step * (x[..., 1:] + y[..., 1:])).sum(-1, keepdim=True) / (x[..., :1] + y[..., :1])  # t_y − t_x
    along = sqrt_curvature(c) * (x[..., :1] * outward - length * later)
    across = norm(step - outward * u)
    apart = (along != 0.0) | (across != 0.0)  # at (0, 0) the slope of atan2 is not a number
    angle = torch.atan2(torch.where(apart, across, 0.0), torch.where(apart, along, 1.0))
    return torch.where(away, angle, math.pi / 2.0).squeeze(-1)


def outside_cone(x: Tensor, y: Tensor, c: Scalar, min_radius: float = MIN_RADIUS) -> Tensor:
    """max(0, ext(x, y) − aper(x)) [3]: by how much y misses the cone of x, in radians; 0 inside it."""
    return (exterior_angle(x, y, c) - half_aperture(x, c, min_radius)).clamp_min(0.0)
