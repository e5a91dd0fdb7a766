"""Adapters for any model: structured matrices and the HyperET adjustment. Needs torch alone, not sam3."""

from sam3_hyperet.adapters.adjustment import GEOMETRIES, HyperET
from sam3_hyperet.adapters.structure import (
    STRUCTURES,
    Banded,
    BlockDiagonal,
    Dense,
    Diagonal,
    Structure,
    make_structure,
)

__all__ = [
    "GEOMETRIES",
    "STRUCTURES",
    "Banded",
    "BlockDiagonal",
    "Dense",
    "Diagonal",
    "HyperET",
    "Structure",
    "make_structure",
]
