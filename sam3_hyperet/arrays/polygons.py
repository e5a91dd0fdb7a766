"""Many polygons x, y, x, y, … in one array: their extents, and which are rectangles or could be empty."""

from collections.abc import Iterator

import numpy as np

from sam3_hyperet.arrays.ragged import Ragged

_AT_ONCE = 2**14  # polygons, which keeps the intermediate arrays small


def extents(polygons: Ragged) -> np.ndarray:
    """(K, 4) left, top, right, bottom of each polygon; not finite where a coordinate is not."""
    found = np.zeros((len(polygons), 4))
    for block, points, starts in _blocks(polygons):
        found[block, :2] = np.minimum.reduceat(points, starts[:-1])
        found[block, 2:] = np.maximum.reduceat(points, starts[:-1])
    return found


def are_rectangles(polygons: Ragged, reach: np.ndarray) -> np.ndarray:
    """(K,) which polygons are their own boxes: four corners, the first of them once more at the end or not.

    reach: their `extents`.
    """
    found = np.zeros(len(polygons), bool)
    for block, every, starts in _blocks(polygons):
        for length in (4, 5):
            which = np.flatnonzero(np.diff(starts) == length)
            points = every[starts[which, None] + np.arange(length)]
            low, high = reach[block][which, None, :2], reach[block][which, None, 2:]
            at_corners = ((points == low) | (points == high)).all(axis=(1, 2))
            one_by_one = ((np.diff(points, axis=1) != 0).sum(axis=2) == 1).all(axis=1)
            is_closed = (points[:, 0] == points[:, -1]).all(axis=1) | (length == 4)
            found[block.start + which] = at_corners & one_by_one & is_closed
    return found


def maybe_empty(polygons: Ragged) -> np.ndarray:
    """(K,) True where a polygon is so small or thin that rasterising it could cover no pixel."""
    found = np.zeros(len(polygons), bool)
    for block, points, starts in _blocks(polygons):
        following = np.arange(1, len(points) + 1)
        following[starts[1:] - 1] = starts[:-1]
        x, y = np.ascontiguousarray(points.T)
        next_x, next_y = x[following], y[following]
        area = np.abs(np.add.reduceat(x * next_y - next_x * y, starts[:-1])) / 2
        perimeter = np.add.reduceat(np.hypot(next_x - x, next_y - y), starts[:-1])
        found[block] = (area < 4) | (2 * area < perimeter)
    return found


def _blocks(polygons: Ragged) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Some polygons: which, their (P, 2) points, and where each one's points begin and end."""
    for first in range(0, len(polygons), _AT_ONCE):
        starts = polygons.starts[first : first + _AT_ONCE + 1]
        points = polygons.values[starts[0] : starts[-1]].reshape(-1, 2)
        yield slice(first, first + len(starts) - 1), points, (starts - starts[0]) // 2
