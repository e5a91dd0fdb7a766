"""One image of `scenes`: a background, one to four things, and the visible mask of everything in it.

Colours and labels are drawn by the same calls at three times the size. The image is their average; a mask holds the
pixels most of whose 3 × 3 samples carry its label, so masks are disjoint and parts lie within their object.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from sam3_hyperet.scenes.backgrounds import EXTENT, background
from sam3_hyperet.scenes.concepts import THINGS, group_of
from sam3_hyperet.scenes.objects import sprite
from sam3_hyperet.scenes.shapes import TEXTURES, Points, Rgb, Sprite, tint

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MIN_OBJECT_SHARE = 0.004  # of the image; a smaller object is not drawn
MIN_PART_PIXELS = 6
_SAMPLES = 3  # per pixel and axis; odd, so that a majority always is one
_MARGIN = 64  # by which the texture tiles exceed the canvas, for their random offset
_MIN_VISIBLE = {"thing": 0.5, "stuff": 0.3}  # what later things must leave of an earlier one
_MIN_PART_AREA = 16.0  # square units: a part is hidden, or at least this much of it shows
_TRIES = 14


@dataclass(frozen=True)
class SceneInstance:
    """One annotated object, part or group member; `owner` indexes its object in the scene's list."""

    concept: str
    granularity: str
    mask: Mask
    owner: int
    color: str | None = None


@lru_cache(maxsize=4)
def _textures(size: int) -> NDArray[np.int8]:
    """Brightness offsets, one (size, size) tile for each name in `TEXTURES`."""
    rng = np.random.default_rng(0)
    unit = max(size - _MARGIN, 1) / EXTENT
    y, x = np.mgrid[:size, :size] / unit

    def noise(cell: float) -> NDArray[np.float64]:
        cells = max(int(size / unit / cell), 2)
        small = rng.normal(size=(cells, cells)).astype(np.float32)
        return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float64)

    row, tile_row = np.floor(y / 4.5), np.floor(y / 5)
    joint = (y % 4.5 < 1.0) | ((x + 4.5 * (row % 2)) % 9 < 1.0)
    tiles = {
        "plain": np.zeros((size, size)),
        "grain": 5 * noise(1.3),
        "brick": np.where(joint, -34.0, 4.0) + 5 * noise(3),
        "leaf": np.where(noise(2.6) > 0.5, 20.0, 0.0) - np.where(noise(2.6) > 0.7, 22.0, 0.0),
        "blade": 9 * noise(2) + 14 * ((x + 1.5 * np.sin(y)) % 4 < 1.1) * (noise(5) > 0),
        "asphalt": 10 * noise(1.1),
        "tile": np.where(y % 5 < 1.2, -32.0, 3.0) - 14 * ((x + 2.5 * (tile_row % 2)) % 5 < 0.9),
        "stripe": np.where(y % 6 < 3, -34.0, 8.0),
        "plank": np.where(x % 5 < 0.9, -22.0, 2.0) + 3 * noise(2),
        "cloud": 6 * noise(16),
    }
    return np.stack([tiles[name] for name in TEXTURES]).clip(-100, 100).astype(np.int8)


class _Canvas:
    """Two images drawn alike: colours, and labels (object, part, texture) of 8 bits each."""

    def __init__(self, size: int) -> None:
        self.size, self.side = size, size * _SAMPLES
        self.unit, self.stroke = self.side / EXTENT, max(1, round(self.side / 200))
        self.colors, self.labels = np.zeros((2, self.side, self.side, 3), np.uint8)

    def fill(self, image: Image, points: Points, value: Rgb, outline: Rgb | None) -> None:
        """Fills a polygon, given in units, in colours or labels; an outline belongs to what it surrounds."""
        corners = [np.rint(points * (self.unit * 16) - 8).astype(np.int32)]
        cv2.fillPoly(image, corners, value, shift=4)
        if outline is not None:
            cv2.polylines(image, corners, True, outline, self.stroke, shift=4)

    def samples(self, labels: Image, channel: int, count: int) -> NDArray[np.int64]:
        """About how many pixels carry each of the labels 0…count-1."""
        middle = slice(_SAMPLES // 2, None, _SAMPLES)
        return np.bincount(labels[middle, middle, channel].ravel(), minlength=count)

    def mask(self, channel: int, label: int) -> Mask:
        samples = (self.labels[..., channel] == label).astype(np.uint8) * np.uint8(255)
        return np.asarray(cv2.resize(samples, (self.size, self.size), interpolation=cv2.INTER_AREA) > 127)

    def picture(self, rng: np.random.Generator) -> Image:
        """Colours, texture, light from one side, and noise, at the final size."""
        size, width = self.size, self.side + _MARGIN
        tiles = _textures(width)
        dy, dx = rng.integers(0, _MARGIN, 2)
        rows, columns = np.arange(self.side) + dy, np.arange(self.side) + dx
        index = rows[:, None] * width + columns + self.labels[..., 2].astype(np.int32) * width**2
        relief = np.take(tiles.reshape(-1), index).astype(np.float32) * np.float32(rng.uniform(0.6, 1.2))
        relief = cv2.resize(relief, (size, size), interpolation=cv2.INTER_AREA)
        flat = cv2.resize(self.colors, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
        ramp = np.linspace(-1, 1, size, dtype=np.float32)
        slope = rng.uniform(-0.11, 0.11, 2).astype(np.float32)
        light = np.float32(rng.uniform(0.9, 1.06)) + ramp[:, None] * slope[0] + ramp * slope[1]
        noise = rng.standard_normal((size, size, 3), np.float32) * np.float32(rng.uniform(1.5, 4.5))
        picture: Image = ((flat + relief[..., None]) * light[..., None] + noise).clip(0, 255).astype(np.uint8)
        return picture


@dataclass
class _Entry:
    """Something drawn: its label, concept, area when drawn, and the labels and names of its parts."""

    concept: str
    color: str | None
    area: int
    parts: dict[int, str]


class _Scene:
    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size, self.canvas = rng, size, _Canvas(size)
        self.entries: list[_Entry] = []  # label = index + 1
        self.part_count = 0

    def draw_background(self) -> float:
        """Paints a background and returns its horizon."""
        back, canvas = background(self.rng), self.canvas
        names = list(dict.fromkeys(region.stuff for region in back.regions if region.stuff))
        for region in back.regions:
            label = names.index(region.stuff) + 1 if region.stuff else 0
            canvas.fill(canvas.colors, region.points, region.color, None)
            canvas.fill(canvas.labels, region.points, (label, 0, region.texture), None)
        areas = canvas.samples(canvas.labels, 0, len(names) + 1)
        self.entries = [_Entry(name, None, int(area), {}) for name, area in zip(names, areas[1:], strict=True)]
        return back.horizon

    def draw_things(self, horizon: float) -> None:
        """Places one to four things, the far ones first."""
        rng = self.rng
        count = int(rng.choice([1, 2, 3, 4], p=[0.2, 0.32, 0.3, 0.18]))
        kinds = list(rng.permutation(THINGS)[:count])
        if count > 1 and rng.random() < 0.25:
            kinds[-1] = kinds[0]
        scale = {1: 1.06, 2: 1.0, 3: 0.92, 4: 0.84}[count]
        sprites = [sprite(str(kind), rng) for kind in kinds]
        sprites.sort(key=lambda thing: -thing.bounds()[2] + rng.uniform(0, 40))  # tall ones tend to stand behind
        placed = 0
        for depth, thing in enumerate(sprites):
            span = ((depth + rng.uniform(0.1, 0.9)) / count) ** 0.9
            placed += self._place(thing, scale * rng.uniform(0.86, 1.14), horizon, span)
        if not placed:
            self._place(sprites[0], 0.8, horizon, 0.8)

    def _place(self, thing: Sprite, scale: float, horizon: float, span: float) -> bool:
        """Draws a thing where it fits; False where it fits nowhere and is left out."""
        rng = self.rng
        left, right, top = (scale * bound for bound in thing.bounds())
        flip = -1.0 if rng.random() < 0.5 else 1.0
        if flip < 0:
            left, right = -right, -left
        tilt = np.radians(rng.normal(0, 2.5))
        turn = scale * np.array([[np.cos(tilt), -np.sin(tilt)], [-np.sin(tilt), -np.cos(tilt)]])  # y points down now
        stretch = np.array([flip * rng.uniform(0.94, 1.08), rng.uniform(0.94, 1.08)])
        slack = 0.1 * (right - left)
        for _ in range(_TRIES):
            lowest = max(horizon + 5, top * 0.96)
            y = lowest + (EXTENT - 1 - lowest) * float(np.clip(span + rng.normal(0, 0.12), 0, 1))
            foot = np.array([rng.uniform(-left - slack, EXTENT - right + slack), y])
            outlines = [(shape.points * stretch) @ turn.T + foot for shape in thing.shapes]
            if self._draw(thing, outlines):
                return True
        return False

    def _draw(self, thing: Sprite, outlines: list[Points]) -> bool:
        """Draws a thing unless something in the image, itself included, would then show too little."""
        canvas, label = self.canvas, len(self.entries) + 1
        labels = canvas.labels.copy()
        for points, shape in zip(outlines, thing.shapes, strict=True):
            code = (label, self.part_count + 1 + shape.part if shape.part >= 0 else 0, shape.texture)
            canvas.fill(labels, points, code, code if shape.outlined else None)
        areas = canvas.samples(labels, 0, label + 1)
        parts = {self.part_count + 1 + index: name for index, name in enumerate(thing.parts)}
        entry = _Entry(thing.kind, thing.color, int(areas[label]), parts)
        for number, other in enumerate((*self.entries, entry), start=1):
            share = _MIN_VISIBLE["thing" if other.parts else "stuff"]
            if areas[number] < max(share * other.area, 1.5 * MIN_OBJECT_SHARE * self.size**2):
                return False
        part_areas = canvas.samples(labels, 1, self.part_count + len(parts) + 1)[1:]
        if ((part_areas > 0) & (part_areas < _MIN_PART_AREA * (self.size / EXTENT) ** 2)).any():
            return False
        canvas.labels = labels
        for points, shape in zip(outlines, thing.shapes, strict=True):
            canvas.fill(canvas.colors, points, shape.color, tint(shape.color, 0.5) if shape.outlined else None)
        self.entries.append(entry)
        self.part_count += len(parts)
        return True

    def instances(self) -> list[SceneInstance]:
        """Objects (things and stuff), then their parts, then their groups."""
        objects, parts, groups = list[SceneInstance](), list[SceneInstance](), list[SceneInstance]()
        for owner, entry in enumerate(self.entries):
            mask = self.canvas.mask(0, owner + 1)
            objects.append(SceneInstance(entry.concept, "object", mask, owner, entry.color))
            for part, name in entry.parts.items():
                piece = self.canvas.mask(1, part)
                if int(piece.sum()) >= MIN_PART_PIXELS:
                    parts.append(SceneInstance(name, "part", piece, owner))
            if group := group_of(entry.concept):
                groups.append(SceneInstance(group, "group", mask, owner, entry.color))
        return objects + parts + groups


def draw_scene(rng: np.random.Generator, size: int) -> tuple[Image, list[SceneInstance]]:
    """A new image, (size, size, 3) RGB, and all its instances: objects, parts, groups, in this order."""
    scene = _Scene(rng, size)
    scene.draw_things(scene.draw_background())
    return scene.canvas.picture(rng), scene.instances()
