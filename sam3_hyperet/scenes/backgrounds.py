"""The backgrounds of `scenes`: sky, road and grass in changing company, the rest left unlabelled.

Coordinates are the image's: units of 1/128 of its side, the origin at the top left, y downwards.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from sam3_hyperet.scenes.shapes import TEXTURES, Points, Rgb, blob, box, choice, ellipse, jitter, polygon, tint

EXTENT = 128.0  # the image's side in units

# What each kind of background shows ("" = something unlabelled), from back to front, and how often it comes.
LAYOUTS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("sky", "grass"), 0.16),
    (("sky", "road"), 0.13),
    (("sky", "grass", "road"), 0.14),
    (("sky", ""), 0.11),
    (("grass",), 0.09),
    (("grass", "road"), 0.12),
    (("road",), 0.08),
    (("", "road"), 0.07),
    (("",), 0.10),
)

_SKIES: tuple[Rgb, ...] = ((128, 190, 240), (96, 160, 228), (178, 208, 232), (246, 190, 140), (52, 66, 128))
_FLOORS: tuple[Rgb, ...] = ((226, 206, 156), (190, 146, 104), (238, 242, 248), (206, 160, 150))
_WALLS: tuple[Rgb, ...] = ((222, 208, 188), (178, 196, 204), (214, 180, 176), (190, 184, 214), (168, 124, 104))
_MEADOWS: tuple[Rgb, ...] = ((122, 188, 78), (98, 172, 88), (150, 190, 84))
_HILLS: tuple[Rgb, ...] = ((150, 156, 186), (126, 134, 150), (176, 160, 150))


class Region(NamedTuple):
    """One filled polygon of the background; `stuff` is its concept, "" for unlabelled."""

    stuff: str
    points: Points
    color: Rgb
    texture: int


@dataclass
class Background:
    """Regions in painting order, and the height from which on things may stand."""

    regions: list[Region] = field(default_factory=list)
    horizon: float = 0.0

    def add(self, stuff: str, points: Points, color: Rgb, texture: str = "plain") -> None:
        self.regions.append(Region(stuff, points, color, TEXTURES.index(texture)))


def _below(rng: np.random.Generator, y: float, wave: float) -> Points:
    """Everything under a gently waving line at height y."""
    x = np.linspace(-2, EXTENT + 2, 24)
    line = y + wave * np.sin(x / rng.uniform(14, 34) + rng.uniform(0, 6.3))
    return np.concatenate((np.stack((x, line), axis=1), polygon((EXTENT + 2, 130), (-2, 130))))


def _sky(rng: np.random.Generator, background: Background) -> None:
    color = choice(rng, _SKIES, 14)
    bottom = background.horizon + 6
    for band in range(12):  # paler towards the horizon
        background.add("sky", box(-2, band * bottom / 12 - 2, 130, 130), tint(color, 1 + 0.035 * band), "cloud")
    if rng.random() < 0.3:
        x, y, radius = rng.uniform(12, 116), rng.uniform(8, 24), rng.uniform(6, 9)
        background.add("sky", ellipse(x, y, radius, radius), (255, 240, 176))
    for _ in range(int(rng.integers(0, 4))):
        x, y, width = rng.uniform(0, 128), rng.uniform(4, bottom * 0.6), rng.uniform(10, 20)
        background.add("sky", blob(rng, x, y, width, width * 0.4, 8), tint(color, 1.75), "cloud")
    if rng.random() < 0.3:
        peaks = [(float(x), background.horizon - rng.uniform(1, 20)) for x in np.linspace(-2, 130, 7)]
        background.add("", polygon((-2.0, 130.0), *peaks, (130.0, 130.0)), choice(rng, _HILLS, 14), "grain")


def _road(rng: np.random.Generator, background: Background, stripe: bool) -> None:
    """All the ground, or, over grass, a stripe of it; with lane marks."""
    color = tint(jitter(rng, (108, 108, 116), 6), rng.uniform(0.8, 1.15))
    paint: Rgb = (244, 240, 224) if rng.random() < 0.7 else (246, 206, 84)
    horizon = background.horizon
    if not stripe:
        background.add("road", box(-2, horizon, 130, 130), color, "asphalt")
        y, pitch = rng.uniform(max(horizon, 30) + 14, 116), rng.uniform(24, 34)
        for k in range(6):
            x = k * pitch - 10 + rng.uniform(0, 3)
            background.add("road", box(x, y, x + pitch * 0.5, y + 2.6), paint)
    elif horizon > 0 and rng.random() < 0.5:  # running away from the viewer
        x, foot, reach = rng.uniform(40, 88), rng.uniform(30, 98), rng.uniform(34, 48)
        outline = polygon((x - 5, horizon), (x + 5, horizon), (foot + reach, 130), (foot - reach, 130))
        background.add("road", outline, color, "asphalt")
        for near, far in ((0.2, 0.34), (0.5, 0.68), (0.84, 1.0)):
            (y0, y1), (x0, x1) = [[a + (b - a) * t for t in (near, far)] for a, b in ((horizon, 130), (x, foot))]
            background.add("road", polygon((x0 - near, y0), (x0 + near, y0), (x1 + far, y1), (x1 - far, y1)), paint)
    else:  # across, lying or (seen from above) standing
        width, slope = rng.uniform(32, 46), rng.uniform(-0.12, 0.12)
        center = rng.uniform(max(horizon + width / 2 + 6, 40), 112)
        upright = horizon == 0 and rng.random() < 0.5
        marks = np.linspace(-4, 132, 12).reshape(-1, 2)
        stripes = [(start, stop, 1.2, paint, "plain") for start, stop in marks]
        for start, stop, half, tone, texture in ((-4.0, 132.0, width / 2, color, "asphalt"), *stripes):
            y0, y1 = (center + slope * (x - 64) for x in (start, stop))
            strip = polygon((start, y0 - half), (stop, y1 - half), (stop, y1 + half), (start, y0 + half))
            background.add("road", strip[:, ::-1] if upright else strip, tone, texture)


def background(rng: np.random.Generator) -> Background:
    """A new background, of one of the `LAYOUTS`; only grass or road alone, or both, are seen from above."""
    names = LAYOUTS[int(rng.choice(len(LAYOUTS), p=[share for _, share in LAYOUTS]))][0]
    from_above = names[0] in ("grass", "road")
    scene = Background(horizon=0.0 if from_above else float(rng.uniform(46, 74)))
    if names[0] == "sky":
        _sky(rng, scene)
    elif names[0] == "":
        texture = ("plain", "brick", "plank", "grain")[int(rng.integers(4))]
        scene.add("", box(-2, -2, 130, 130), choice(rng, _WALLS, 14), texture)
    if "grass" in names:
        outline = box(-2, -2, 130, 130) if from_above else _below(rng, scene.horizon, rng.uniform(0.5, 3.5))
        scene.add("grass", outline, choice(rng, _MEADOWS, 14), "blade")
    if "road" in names:
        _road(rng, scene, stripe="grass" in names)
    if names in (("sky", ""), ("",)):
        scene.add("", _below(rng, scene.horizon, rng.uniform(0, 2)), choice(rng, _FLOORS, 14), "grain")
    return scene
