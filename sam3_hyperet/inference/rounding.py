"""How far apart outputs are that should be equal but for rounding."""

from typing import Any

TOLERANCE = 1e-4
"""Largest difference of an output, relative to the output's largest value, that rounding explains."""


def relative_difference(found: Any, expected: Any) -> float:
    """Largest difference of two tensors or arrays, relative to the largest value expected; not a number stays one."""
    return float(abs(found - expected).max() / abs(expected).max())
