"""Many polygons of COCO annotations, checked and kept in one array."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NoReturn

import numpy as np

from sam3_hyperet.data.annotations import shown
from sam3_hyperet.errors import DataError


class Polygons:
    """Many polygons in one array (a list of lists of floats takes ten times the memory, and worker processes
    would copy it). `flat` holds x, y, x, y, …; polygon k is flat[starts[k]:starts[k + 1]]."""

    def __init__(self, polygons: Sequence[Sequence[float]], owner: Callable[[int], str]) -> None:
        """owner(k): what to call polygon k in an error. Raises DataError for a coordinate that is no finite number."""
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
