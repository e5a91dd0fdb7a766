"""What `scenes` is drawn from: coloured, textured polygons that know the part they belong to, and outlines.

Lengths are in units of 1/128 of the image's side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Rgb = tuple[int, int, int]

COLORS: dict[str, Rgb] = {
    "red": (206, 52, 46),
    "blue": (52, 98, 204),
    "yellow": (238, 196, 48),
    "white": (236, 234, 226),
    "brown": (142, 92, 54),
    "green": (62, 142, 60),
    "gray": (146, 148, 154),
}
TEXTURES = ("plain", "grain", "brick", "leaf", "blade", "asphalt", "tile", "stripe", "plank", "cloud")


class Shape(NamedTuple):
    """One filled polygon; `part` indexes the sprite's parts, -1 for none."""

    points: Points
    color: Rgb
    texture: int
    part: int
    outlined: bool


@dataclass
class Sprite:
    """A thing before it is placed: shapes in painting order, and the names of its parts."""

    kind: str
    color: str
    shapes: list[Shape] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    def part(self, name: str) -> int:
        """Opens one more part instance and returns its index."""
        self.parts.append(name)
        return len(self.parts) - 1

    def add(self, points: Points, color: Rgb, texture: str = "plain", part: int = -1, outlined: bool = True) -> None:
        self.shapes.append(Shape(points, color, TEXTURES.index(texture), part, outlined))

    def bounds(self) -> tuple[float, float, float]:
        """Left, right and top end."""
        points = np.concatenate([shape.points for shape in self.shapes])
        return float(points[:, 0].min()), float(points[:, 0].max()), float(points[:, 1].max())


def polygon(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=np.float64)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Points:
    """An ellipse or, from `start` to `stop` degrees, the segment that its chord cuts off."""
    angle = np.radians(np.linspace(start, stop, 24, endpoint=stop - start < 360.0))
    return np.stack((x + rx * np.cos(angle), y + ry * np.sin(angle)), axis=1)


def box(x0: float, y0: float, x1: float, y1: float, corner: float = 0.0) -> Points:
    """A rectangle whose corners are rounded with radius `corner`."""
    if corner <= 0:
        return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    left, right, low, high = x0 + corner, x1 - corner, y0 + corner, y1 - corner
    arcs = []
    for quarter, (x, y) in enumerate(((right, high), (left, high), (left, low), (right, low))):
        angle = np.radians(np.linspace(90 * quarter, 90 * quarter + 90, 5))
        arcs.append(np.stack((x + corner * np.cos(angle), y + corner * np.sin(angle)), axis=1))
    return np.concatenate(arcs)


def blob(rng: np.random.Generator, x: float, y: float, rx: float, ry: float, bumps: int) -> Points:
    """A cloud-like outline of `bumps` rounded lobes within the ellipse (rx, ry)."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = 0.84 + 0.16 * np.abs(np.sin(angle * bumps / 2 + rng.uniform(0, np.pi)))
    return np.stack((x + rx * radius * np.cos(angle), y + ry * radius * np.sin(angle)), axis=1)


def tint(color: Rgb, factor: float) -> Rgb:
    """Darker for factor < 1, towards white for factor > 1."""
    red, green, blue = (round(c * factor if factor <= 1 else c + (255 - c) * (factor - 1)) for c in color)
    return red, green, blue


def jitter(rng: np.random.Generator, color: Rgb, spread: int = 16) -> Rgb:
    """The colour, lighter or darker by up to `spread`, and a little shifted in hue."""
    shifts = rng.integers(-spread, spread + 1) + rng.integers(-spread // 3, spread // 3 + 1, 3)
    red, green, blue = (int(np.clip(c + shift, 0, 255)) for c, shift in zip(color, shifts, strict=True))
    return red, green, blue


def choice(rng: np.random.Generator, colors: Sequence[Rgb], spread: int = 16) -> Rgb:
    """One of the colours, jittered."""
    return jitter(rng, colors[int(rng.integers(len(colors)))], spread)
