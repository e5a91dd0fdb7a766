"""Hyperbolic geometry in plain PyTorch: the Poincaré ball, the hyperboloid, curvature, radius."""

from sam3_hyperet.hyperbolic import closed_form, lorentz, poincare
from sam3_hyperet.hyperbolic.curvature import Curvature
from sam3_hyperet.hyperbolic.radius import normalized_radius, radius, radius_statistics, saturation_rate

__all__ = [
    "Curvature",
    "closed_form",
    "lorentz",
    "normalized_radius",
    "poincare",
    "radius",
    "radius_statistics",
    "saturation_rate",
]
