"""Adapters for any model; they need torch alone, not sam3.

module                 the interface of an adapter: name, switch, parameters, fold
gate                   a gate per prompt, of an adjustment
adjustment             HyperET, the adjustment of a feature
structure              its matrices
attention              hyperbolic attention as modules
attention_functional   hyperbolic attention as functions
conversion             a module turned into one of a subclass, and back
"""

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.attention import HyperbolicGates, HyperbolicMultiheadAttention
from sam3_hyperet.adapters.structure import Banded, BlockDiagonal, Dense, Diagonal, Structure, make_structure
from sam3_hyperet.choices import GEOMETRIES, STRUCTURES

__all__ = ["GEOMETRIES", "STRUCTURES", "HyperET", "HyperbolicGates", "HyperbolicMultiheadAttention"]
__all__ += ["Banded", "BlockDiagonal", "Dense", "Diagonal", "Structure", "make_structure"]
