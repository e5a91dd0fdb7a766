"""All that a COCO file says, checked, in flat arrays: small, shared by processes, and quick to store."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet.arrays.ragged import Ragged
from sam3_hyperet.data.annotations import Category, Instance

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class CocoFile:
    """N images in the file's order, and the A annotations that count, a row each.

    dropped, adjusted: counts by reason. crowds, rectangles: how many annotations are that, dropped ones included.
    sizes: (N, 2) height, width. file_names: UTF-8. By image, category ids: `absent` and `not_exhaustive`, of those that
    LVIS calls `federated`, `unlabelled`, whose annotations were all dropped, and `partly`, of which a box without a
    mask was dropped and others are left; and `rows`.
    images: positions. crowd: `iscrowd`. boxed: outlined by the box, for want of a mask. stated: (A, 5) x, y, width,
    height, area; NaN where that follows from the mask. parts: (A, 2) the first of a row's polygons and the one after
    the last; where these are equal, the number of its compressed run lengths.
    root: name of the category above all others that annotates nothing, which is left out; "" for none.
    """

    vocabulary: tuple[Category, ...]
    dropped: dict[str, int]
    adjusted: dict[str, int]
    crowds: int
    rectangles: int
    image_ids: np.ndarray
    sizes: np.ndarray
    file_names: Ragged
    federated: np.ndarray
    absent: Ragged
    not_exhaustive: Ragged
    unlabelled: Ragged
    partly: Ragged
    rows: Ragged
    ids: np.ndarray
    images: np.ndarray
    categories: np.ndarray
    crowd: np.ndarray
    boxed: np.ndarray
    stated: np.ndarray
    parts: np.ndarray
    polygons: Ragged
    run_lengths: Ragged
    root: str = ""

    def instance(self, row: int, crowds: bool) -> Instance:
        """The annotation of one row; without `crowds` it is one instance in any case."""
        *box, area = self.stated[row].tolist()
        first, last = self.parts[row].tolist()
        height, width = self.sizes[self.images[row]].tolist()
        if first == last:
            rle = {"size": [height, width], "counts": self.run_lengths[first].tobytes()}
        else:
            rle = masks.from_polygons([self.polygons[k].tolist() for k in range(first, last)], height, width)
        stated = None if math.isnan(box[0]) else tuple(box), None if math.isnan(area) else area
        is_crowd, is_boxed = crowds and bool(self.crowd[row]), bool(self.boxed[row])
        return Instance(int(self.categories[row]), rle, is_crowd, int(self.ids[row]), *stated, is_boxed)


def image_fields(
    ids: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    names: Sequence[str] = (),
    federated: Sequence[int] = (),
    absent: Pairs = (),
    not_exhaustive: Pairs = (),
) -> dict[str, Any]:
    """The fields of a `CocoFile` that say which images there are.

    federated: positions; absent, not_exhaustive: a position and a category id each.
    """
    has = np.zeros(len(ids), bool)
    has[list(federated)] = True
    return {
        "image_ids": np.array(ids, np.int64),
        "sizes": np.array(sizes, np.int64).reshape(-1, 2),
        "file_names": Ragged.of_bytes([name.encode("utf-8", "surrogatepass") for name in names]),
        "federated": has,
        "absent": Ragged.of_pairs(absent, len(ids)),
        "not_exhaustive": Ragged.of_pairs(not_exhaustive, len(ids)),
    }
