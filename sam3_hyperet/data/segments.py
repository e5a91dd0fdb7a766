"""Outlines of COCO annotations: flat storage of polygons, and run lengths that are checked before they are
used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np
from pycocotools import mask as coco_mask

from sam3_hyperet.data.annotations import one_line, shown
from sam3_hyperet.errors import DataError


class Polygons:
    """Many polygons in one array (a list of lists of floats takes ten times the memory, and worker processes
    would copy it). `flat` holds x, y, x, y, …; polygon k is flat[starts[k]:starts[k + 1]]."""

    def __init__(self, polygons: Sequence[Sequence[float]], owner: Callable[[int], str]) -> None:
        """owner(k): what to call polygon k in an error. Raises DataError for a coordinate that is no finite
        number."""
        if not set(map(type, chain.from_iterable(polygons))) <= {int, float}:
            self._blame(polygons, owner)
        self.starts = np.cumsum([0, *map(len, polygons)], dtype=np.int64)
        try:
            self.flat = np.fromiter(chain.from_iterable(polygons), np.float64, count=int(self.starts[-1]))
        except OverflowError:
            self._blame(polygons, owner)
        # (K, 4): left, top, right, bottom of each polygon; a NaN goes through minimum and maximum
        self.extents = np.zeros((len(polygons), 4))
        if len(polygons):
            points, first = self.flat.reshape(-1, 2), self.starts[:-1] // 2
            self.extents[:, :2] = np.minimum.reduceat(points, first)
            self.extents[:, 2:] = np.maximum.reduceat(points, first)
        if not np.isfinite(self.extents).all():
            k = int(np.flatnonzero(~np.isfinite(self.extents).all(axis=-1))[0])
            raise DataError(f"{owner(k)}: a polygon has a coordinate that is not finite")

    @staticmethod
    def _blame(polygons: Sequence[Sequence[Any]], owner: Callable[[int], str]) -> NoReturn:
        for k, polygon in enumerate(polygons):
            for value in polygon:
                if type(value) not in (int, float) or abs(value) > 1e300:
                    raise DataError(f"{owner(k)}: a polygon has the coordinate {shown(value)}, expected a number")
        raise AssertionError("every coordinate is a number")

    def polygon(self, k: int) -> list[float]:
        """Polygon k as COCO writes it."""
        return self.flat[self.starts[k] : self.starts[k + 1]].tolist()

    def maybe_empty(self) -> np.ndarray:
        """(K,) True where a polygon is so small or thin that rasterising it could cover no pixel."""
        if len(self.starts) == 1:
            return np.zeros(0, bool)
        x, y, first = self.flat[0::2], self.flat[1::2], self.starts // 2
        following = np.arange(1, len(x) + 1)
        following[first[1:] - 1] = first[:-1]
        cross = x * y[following] - x[following] * y
        length = np.hypot(x[following] - x, y[following] - y)
        area = np.abs(np.add.reduceat(cross, first[:-1])) / 2
        perimeter = np.add.reduceat(length, first[:-1])
        return (area < 4) | (2 * area < perimeter)


def from_polygons(polygons: list[list[float]], height: int, width: int) -> dict[str, Any]:
    """The union of `polygons` as a compressed RLE, by COCO's own rasteriser."""
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def from_run_lengths(rle: dict[str, Any], height: int, width: int, where: str) -> dict[str, Any]:
    """A COCO RLE, compressed or not, as a compressed one. Raises DataError, beginning with `where`, unless
    its size is (height, width) and its runs fill exactly that."""
    if rle.get("size") != [height, width]:
        raise DataError(f"{where}: its RLE has the size {shown(rle.get('size'))}, the image is {[height, width]}")
    counts = rle.get("counts")
    try:
        runs = _runs(counts) if isinstance(counts, str | bytes) else np.asarray(counts)
    except (ValueError, OverflowError, TypeError) as error:
        raise DataError(f"{where}: its RLE cannot be read ({one_line(error)})") from None
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or len(runs) == 0 or (runs < 0).any():
        raise DataError(f"{where}: its RLE has the counts {shown(counts)}, expected whole numbers from 0")
    if (total := sum(runs.tolist())) != height * width:
        raise DataError(f"{where}: its RLE covers {total} pixels, the image has {height * width}")
    if isinstance(counts, str | bytes):
        return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    return coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)


def decode(rle: dict[str, Any]) -> np.ndarray:
    """(H, W) uint8 of 0 and 1 of a compressed RLE."""
    height, width = rle["size"]
    runs = _runs(rle["counts"])
    values = np.zeros(len(runs), np.uint8)
    values[1::2] = 1
    return np.repeat(values, runs).reshape(width, height).T


def _runs(counts: str | bytes) -> np.ndarray:
    """Run lengths of COCO's compressed text: base-32 digits, low first, six bits a character from '0', bit 5
    = more follows, bit 4 of the last = sign; from the fourth run on the difference to the run before the
    last."""
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63:
        raise ValueError("its counts are not COCO's compressed text")
    ends = np.flatnonzero(digits < 32)
    if not len(ends) or ends[-1] != len(digits) - 1:
        raise ValueError("its counts break off within a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise ValueError("a count is too large")
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 31) << (5 * place), starts)
    runs -= np.where(digits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
