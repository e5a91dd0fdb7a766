"""Overlapping tiles of large images: where they lie, and how they blend.

`columns` x `rows` tiles of one size cover an image; neighbours share a strip, the overlap, a fraction of a tile's side.
What options need works without torch and numpy, for they are read where these may be broken.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sam3_hyperet.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

AUTO, WHOLE = "auto", "1x1"
OVERLAP = 0.2
MOST_TILES = 64
"""Of an image: the features of all are held while its prompts are predicted."""
MIN_SIDE = 16
"""Pixels of a tile, at least."""
_AUTO_SCALE = 2  # pixels of an image to one of the model's input, at most, as far as `MOST_TILES` allows
_GRID = re.compile(r"([1-9]\d{0,2})x([1-9]\d{0,2})")


class Tile(NamedTuple):
    """A rectangle of pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def shared(self, other: Tile) -> Tile | None:
        """What lies in both; None for nothing."""
        both = Tile(*map(max, self[:2], other[:2]), *map(min, self[2:], other[2:]))
        return both if both.width > 0 and both.height > 0 else None


@dataclass(frozen=True)
class Grid:
    """The tiles of one image, by the spans of its columns and rows in pixels."""

    columns: tuple[tuple[int, int], ...]
    rows: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.columns) * len(self.rows)

    def __str__(self) -> str:
        return f"{len(self.columns)}x{len(self.rows)} tiles"

    @property
    def width(self) -> int:
        return self.columns[-1][1]

    @property
    def height(self) -> int:
        return self.rows[-1][1]

    @property
    def tiles(self) -> tuple[Tile, ...]:
        """Row by row."""
        return _rectangles(self.columns, self.rows)

    def cuts(self, tile: Tile, box: Sequence[float], within: tuple[float, float]) -> bool:
        """Whether a tile's edges inside the image cut what has this COCO box: they are nearer than `within`, pixels
        down and across."""
        left, top, width, height = box
        (down, across), is_there = within, width > 0
        at_side = (tile.left > 0 and left - tile.left < across) or (
            tile.right < self.width and tile.right - left - width < across
        )
        at_end = (tile.top > 0 and top - tile.top < down) or (
            tile.bottom < self.height and tile.bottom - top - height < down
        )
        return is_there and (at_side or at_end)

    def weights(self) -> Iterator[np.ndarray]:
        """(height, width) float32 of each tile, falling linearly across overlaps; at each pixel they add up to 1."""
        import numpy as np

        across, down = _ramps(self.columns), _ramps(self.rows)
        for of_row in down:
            for of_column in across:
                yield np.outer(of_row, of_column)

    def scaled(self, width: int, height: int) -> Grid:
        """The same tiles of the image at another size."""
        if (width, height) == (self.width, self.height):
            return self
        return Grid(_scaled(self.columns, width), _scaled(self.rows, height))


@dataclass(frozen=True)
class Tiling:
    """How images are split: `columns` x `rows`, or both None for as many as the model's resolution suggests.

    overlap: fraction of a tile's side that it shares with its neighbour.
    """

    columns: int | None = 1
    rows: int | None = 1
    overlap: float = OVERLAP

    @classmethod
    def of(cls, tiles: object, overlap: float = OVERLAP, section: str = "") -> Tiling:
        """That of `tiles=3x2`, 3 columns and 2 rows, or `tiles=auto`. Raises ConfigError.

        section: what the names of the options begin with, for messages.
        """
        found = _GRID.fullmatch(str(tiles))
        if found is None and tiles != AUTO:
            raise ConfigError(f"{section}tiles={tiles!r:.60}; expected COLUMNSxROWS, such as 3x2, or {AUTO}")
        columns, rows = map(int, found.groups()) if found else (None, None)
        if columns and rows and columns * rows > MOST_TILES:
            raise ConfigError(
                f"{section}tiles={tiles}: {columns * rows} tiles an image, whose features are held at once; expected "
                f"at most {MOST_TILES}"
            )
        is_number = isinstance(overlap, int | float) and not isinstance(overlap, bool)
        if not is_number or not 0 < overlap <= 0.5:
            why = ", without which nothing that a seam cuts can be joined" if overlap == 0 else ""
            expected = "expected a fraction of a tile's side, above 0 and at most 0.5"
            raise ConfigError(f"{section}tile_overlap={overlap!r:.60}{why}; {expected}")
        return cls(columns, rows, overlap)

    def line(self) -> str:
        """What it costs, in one line for people; "" where no image is split."""
        if self.is_whole:
            return ""
        what, passes = "tiles by the size of each image", "as many"
        if self.columns and self.rows:
            what, passes = f"{self.columns}x{self.rows} tiles", str(self.columns * self.rows)
        return f"{what}, {self.overlap:.0%} overlap: {passes} passes of the image encoder and of every prompt an image"

    @property
    def is_whole(self) -> bool:
        """Whether no image is split."""
        return self.columns == self.rows == 1

    def grid(self, width: int, height: int, resolution: int = 0, name: object = "an image") -> Grid:
        """The tiles of an image; `resolution` is the model's, for `auto`. Raises DataError that begins with `name`."""
        columns, rows = self.columns, self.rows
        if columns is None or rows is None:
            columns, rows = self._suggested(width, height, resolution)
        counts = (width, columns), (height, rows)
        if any(count > self._most(length) for length, count in counts):
            most = f"{self._most(width)}x{self._most(height)}"
            raise DataError(
                f"{name}: {width} x {height} pixels are too few for {columns}x{rows} tiles of {MIN_SIDE} pixels a side "
                f"or more; expected tiles={most} at most, or tiles={AUTO}"
            )
        return Grid(self._spans(width, columns), self._spans(height, rows))

    def _suggested(self, width: int, height: int, resolution: int) -> tuple[int, int]:
        """The fewest columns and rows whose tiles have so few pixels a side that the model sees half of them."""
        side = float(_AUTO_SCALE * resolution)
        while True:
            columns, rows = (self._count(length, side) for length in (width, height))
            if columns * rows <= MOST_TILES:
                return columns, rows
            side *= 1.05

    def _count(self, length: int, side: float) -> int:
        """The fewest tiles of at most so many pixels that cover a length."""
        return max(1, math.ceil((length / side - self.overlap) / (1 - self.overlap)))

    def _most(self, length: int) -> int:
        return max(1, math.floor((length / MIN_SIDE - self.overlap) / (1 - self.overlap)))

    def _side(self, length: int, count: int) -> int:
        return math.ceil(length / (count - (count - 1) * self.overlap))

    def _spans(self, length: int, count: int) -> tuple[tuple[int, int], ...]:
        side = self._side(length, count)
        starts = [round(k * (length - side) / max(1, count - 1)) for k in range(count)]
        return tuple((start, start + side) for start in starts)


_Spans = Sequence[tuple[int, int]]


def _rectangles(columns: _Spans, rows: _Spans) -> tuple[Tile, ...]:
    return tuple(Tile(left, top, right, bottom) for top, bottom in rows for left, right in columns)


def _ramps(spans: _Spans) -> list[np.ndarray]:
    """A weight for each position of each span."""
    import numpy as np

    ramps, total = [], np.zeros(spans[-1][1])
    for k, (start, stop) in enumerate(spans):
        weight, at = np.ones(stop - start), np.arange(stop - start)
        if k > 0:
            weight = np.minimum(weight, (at + 1) / (spans[k - 1][1] - start + 1))
        if k < len(spans) - 1:
            weight = np.minimum(weight, (stop - start - at) / (stop - spans[k + 1][0] + 1))
        ramps.append(weight)
        total[start:stop] += weight
    return [(ramp / total[start:stop]).astype(np.float32) for ramp, (start, stop) in zip(ramps, spans, strict=True)]


def _scaled(spans: _Spans, length: int) -> tuple[tuple[int, int], ...]:
    factor = length / spans[-1][1]
    return tuple((min(round(start * factor), length - 1), max(1, round(stop * factor))) for start, stop in spans)
