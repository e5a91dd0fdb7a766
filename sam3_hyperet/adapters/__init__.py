"""Adapters for any model: the HyperET adjustment, its matrices, hyperbolic attention. Needs torch alone, not sam3."""

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.attention import HyperbolicGates, HyperbolicMultiheadAttention
from sam3_hyperet.adapters.structure import (
    Banded,
    BlockDiagonal,
    Dense,
    Diagonal,
    Structure,
    make_structure,
)
from sam3_hyperet.choices import GEOMETRIES, STRUCTURES

__all__ = [
    "GEOMETRIES",
    "STRUCTURES",
    "Banded",
    "BlockDiagonal",
    "Dense",
    "Diagonal",
    "HyperET",
    "HyperbolicGates",
    "HyperbolicMultiheadAttention",
    "Structure",
    "make_structure",
]
