"""The annotations of a COCO file: checked one by one, then kept as flat arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import ImageRecord, shown, whole_number
from sam3_hyperet.data.json_files import field
from sam3_hyperet.data.polygons import Polygons
from sam3_hyperet.errors import DataError

_KEYS = ("image_id", "category_id", "bbox", "segmentation")


class AnnotationTable:
    """`add` each record, then `finish`: then (A,) arrays `id`, `image` (a position), `category` and `crowd`,
    and `rle` for the outline of a row."""

    def __init__(
        self, path: Path, images: list[ImageRecord], position: Mapping[int, int], categories: set[int]
    ) -> None:
        self.path, self._images, self._position, self._categories = path, images, position, categories
        self.dropped: Counter[str] = Counter()
        self.adjusted: Counter[str] = Counter()
        self._seen: set[int] = set()
        self._rows: list[tuple[int, ...]] = []  # id, image, category, crowd, first polygon, last + 1
        self._outlines: list[list[float]] = []
        self._rles: dict[int, dict[str, Any]] = {}  # by annotation id

    def add(self, record: Mapping[str, Any], where: str) -> None:
        """Check one annotation. Raises DataError; counts and leaves out what is merely degenerate."""
        number = whole_number(field(record, "id", where), f"{where}: its id")
        where = f"{self.path}: annotation {number}"
        if number in self._seen:
            raise DataError(f"{where}: two annotations have this id")
        self._seen.add(number)
        image_id, category, box, outline = (field(record, key, where) for key in _KEYS)
        if type(image_id) is not int or image_id not in self._position:
            raise DataError(f"{where}: its image_id {shown(image_id)} is not among the {len(self._position)} images")
        if type(category) is not int or category not in self._categories:
            raise DataError(f"{where}: its category_id {shown(category)} is not among the categories")
        crowd = record.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DataError(f"{where}: its iscrowd is {shown(crowd)}, expected 0 or 1")
        image = self._images[self._position[image_id]]
        first = len(self._outlines)
        if not _has_area(box, image, where):
            self.dropped["box without area"] += 1
        elif self._take(outline, number, image, where):
            self._rows.append((number, self._position[image_id], category, bool(crowd), first, len(self._outlines)))

    def _take(self, outline: object, number: int, image: ImageRecord, where: str) -> bool:
        """Keep the outline; False if there is nothing of it to keep."""
        if isinstance(outline, dict):
            rle = masks.from_run_lengths(outline, image.height, image.width, where)
            if not masks.area(rle):
                self.dropped["mask without a pixel"] += 1
                return False
            self._rles[number] = rle
            return True
        if not isinstance(outline, list) or not all(isinstance(polygon, list) for polygon in outline):
            raise DataError(f"{where}: its segmentation is {shown(outline)}, expected polygons or an RLE")
        polygons = [polygon for polygon in outline if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not polygons:
            self.dropped["outline without a polygon of 3 points"] += 1
        elif len(polygons) < len(outline):
            self.adjusted["outline with a polygon of fewer than 3 points"] += 1
        self._outlines += polygons
        return bool(polygons)

    def finish(self) -> None:
        """Turn the rows into arrays, check all coordinates at once, leave out what covers no pixel."""
        rows = np.asarray(self._rows, np.int64).reshape(-1, 6)
        owner = np.repeat(np.arange(len(rows)), rows[:, 5] - rows[:, 4])  # the row of each polygon
        self._polygons = Polygons(self._outlines, lambda k: f"{self.path}: annotation {rows[owner[k], 0]}")
        clipped = self._beyond(rows, owner)
        solid = np.zeros(len(rows), bool)
        solid[owner[~(self._polygons.maybe_empty() | clipped)]] = True
        keep = np.ones(len(rows), bool)
        self.id, self.image, self.category, self.crowd = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] == 1
        self._from, self._to = rows[:, 4], rows[:, 5]
        for row in np.flatnonzero(~solid & (self._to > self._from)).tolist():
            image = self._images[self.image[row]]
            keep[row] = masks.area(self.rle(row, image.height, image.width)) > 0
        if empty := int((~keep).sum()):
            self.dropped["mask without a pixel"] += empty
        if repaired := len(np.unique(owner[clipped & keep[owner]])):
            self.adjusted["outline beyond the image's border, clipped"] += repaired
        for column in ("id", "image", "category", "crowd", "_from", "_to"):
            setattr(self, column, getattr(self, column)[keep])
        if self._seen and not len(self.id):
            raise DataError(f"{self.path}: none of its {len(self._seen)} annotations has a mask ({dict(self.dropped)})")
        del self._rows, self._outlines, self._seen, self._position

    def rle(self, row: int, height: int, width: int) -> dict[str, Any]:
        """The mask of one row, compressed, at the size of its picture."""
        if self._to[row] == self._from[row]:
            return self._rles[int(self.id[row])]
        polygons = [self._polygons.polygon(k) for k in range(self._from[row], self._to[row])]
        return masks.from_polygons(polygons, height, width)

    def _beyond(self, rows: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """(K,) which polygons reach over the border, to be clipped; by a whole picture, they are wrong."""
        sizes = np.asarray([(image.width, image.height) for image in self._images], float)[rows[owner, 1]]
        beyond = masks.spread_beyond(self._polygons.extents, sizes)
        if (wrong := (beyond > sizes).any(axis=-1)).any():
            k = int(np.flatnonzero(wrong)[0])
            width, height = sizes[k].astype(int)
            raise DataError(
                f"{self.path}: annotation {rows[owner[k], 0]}: a polygon spans "
                f"{[round(float(v), 1) for v in self._polygons.extents[k]]}, the image is {width}x{height}"
            )
        return (beyond > 1).any(axis=-1)


def _has_area(box: object, image: ImageRecord, where: str) -> bool:
    """Whether [x, y, width, height] has an area. Raises DataError if it is no box of this picture."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        raise DataError(f"{where}: its bbox is {shown(box)}, expected [x, y, width, height]")
    x, y, w, h = box
    width, height = image.width, image.height
    if not (abs(x) <= width and abs(y) <= height and 0 <= w <= 2 * width and 0 <= h <= 2 * height):
        raise DataError(f"{where}: its bbox is {shown(box)}, the image is {width}x{height}")
    return w > 0 and h > 0
