"""Hyperbolic geometry in plain PyTorch; every function takes the curvature c of a space of curvature −c.

numerics      tolerances, and quotients that are smooth at 0
fused         norms, scalings and inner products with gradients written out
poincare      the Poincaré ball: the reference
lorentz       the hyperboloid
closed_form   the adjustments that training computes
cones         entailment cones
curvature     c as a parameter
radius        radii of features and their statistics
"""

from sam3_hyperet.hyperbolic import closed_form, lorentz, poincare
from sam3_hyperet.hyperbolic.curvature import Curvature
from sam3_hyperet.hyperbolic.radius import normalized_radius, radius, radius_statistics, saturation_rate

__all__ = ["Curvature", "closed_form", "lorentz", "poincare"]
__all__ += ["normalized_radius", "radius", "radius_statistics", "saturation_rate"]
