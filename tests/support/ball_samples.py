"""Random vectors and points in units of the ball, and geoopt, the independent reference."""

from __future__ import annotations

import warnings

import torch
from hypothesis import strategies as st

from sam3_hyperet.hyperbolic import poincare

with warnings.catch_warnings():  # geoopt still decorates with torch.jit.script, which torch now warns of
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    import geoopt.manifolds.stereographic.math as gm  # noqa: F401

curvatures = st.floats(-6.0, 1.0).map(lambda exponent: 10.0**exponent)
seeds = st.integers(0, 2**31 - 1)


def tangents(seed: int, c: float, n: int = 6, dim: int = 5, largest: float = 1.5) -> torch.Tensor:
    """n float64 vectors with √c‖v‖ up to `largest`."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    length = largest * torch.rand(n, 1, generator=generator, dtype=torch.float64)
    return v / v.norm(dim=-1, keepdim=True) * length / c**0.5


def points(seed: int, c: float, **options) -> torch.Tensor:
    return poincare.expmap0(tangents(seed, c, **options), c)


def close(actual: torch.Tensor, expected: torch.Tensor, c: float, tolerance: float = 1e-10) -> None:
    """Equal in units of the space, 1/√c."""
    torch.testing.assert_close(actual * c**0.5, expected * c**0.5, rtol=tolerance, atol=tolerance)
