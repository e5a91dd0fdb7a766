"""What is injected: scheme or sites, structure, geometry and their options; impossible values are errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from sam3_hyperet.adapters.adjustment import GEOMETRIES
from sam3_hyperet.adapters.structure import STRUCTURES
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import one_of, read_options

SCHEMES: dict[str, tuple[str, ...]] = {"none": (), "A": ("fpn",)}
SITES: tuple[str, ...] = ("fpn",)


@dataclass(frozen=True)
class HyperETConfig:
    """An adjustment and the places it goes to; the defaults are the ones that evidence favours.

    Attributes:
        scheme: "none", "A", or several joined by "+"; ignored where `sites` is given.
        sites: places by name, instead of a scheme.
        structure: of the matrix M: "diagonal", "block_diagonal", "banded" or "dense".
        geometry: "euclidean", "moebius", "lorentz" or "gyro".
        curvature: c > 0 of the space of curvature -c.
        learn_curvature: train c, one value per adjustment.
        residual: None, or the initial α of y = x + α(f(x) - x).
        learn_residual: train α.
        block_size: side of the blocks of "block_diagonal".
        bandwidth: half-width of the band of "banded".
        levels: indices of the FPN levels to adjust, highest resolution first; None is every level.
        share: one adjustment for all levels of a site.
    """

    scheme: str = "A"
    sites: tuple[str, ...] | None = None
    structure: str = "dense"
    geometry: str = "lorentz"
    curvature: float = 0.01
    learn_curvature: bool = False
    residual: float | None = None
    learn_residual: bool = False
    block_size: int = 4
    bandwidth: int = 1
    levels: tuple[int, ...] | None = None
    share: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        one_of("structure", self.structure, STRUCTURES)
        one_of("geometry", self.geometry, GEOMETRIES)
        for part in self.scheme.split("+"):
            one_of("scheme", part, SCHEMES)
        for site in self.sites or ():
            one_of("sites", site, SITES)
        if not 0 < self.curvature < math.inf:
            raise ConfigError(f"curvature={self.curvature!r}; expected a positive number")
        for name in ("block_size", "bandwidth"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)!r}; expected an integer from 1")
        if self.levels is not None:
            integers = all(type(level) is int for level in self.levels)
            if not self.levels or not integers or len(set(self.levels)) < len(self.levels):
                raise ConfigError(f"levels={list(self.levels)}; expected distinct integers, or null for every level")
        if self.learn_residual and self.residual is None:
            raise ConfigError("learn_residual=true needs residual=α, its initial value")
        if self.learn_curvature and self.geometry == "euclidean":
            raise ConfigError("learn_curvature=true: geometry euclidean has no curvature; choose another geometry")

    def _check_types(self) -> None:
        for name in ("sites", "levels"):  # a file's list is kept as a tuple, so that equal configs compare equal
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                object.__setattr__(self, name, tuple(value))
            elif value is not None:
                raise ConfigError(f"{name}={value!r}; expected a list or null")
        expected: dict[str, tuple[tuple[type, ...], str]] = {
            "scheme": ((str,), "a name, or names joined by +"),
            "curvature": ((int, float), "a positive number"),
            "residual": ((int, float, type(None)), "a number or null"),
            "learn_curvature": ((bool,), "true or false"),
            "learn_residual": ((bool,), "true or false"),
            "share": ((bool,), "true or false"),
            "block_size": ((int,), "an integer from 1"),
            "bandwidth": ((int,), "an integer from 1"),
        }
        for name, (types, meaning) in expected.items():
            value = getattr(self, name)
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise ConfigError(f"{name}={value!r}; expected {meaning}")

    @property
    def resolved_sites(self) -> tuple[str, ...]:
        """The places of `sites`, or those that the scheme stands for, each once."""
        if self.sites is not None:
            return tuple(dict.fromkeys(self.sites))
        return tuple(dict.fromkeys(site for part in self.scheme.split("+") for site in SCHEMES[part]))

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> HyperETConfig:
        """Build from plain values, as read from a file; a key that is not an option is an error."""
        return read_options(cls, values, "hyperet")

    def to_dict(self) -> dict[str, object]:
        """Every option as plain values."""
        return asdict(self)
