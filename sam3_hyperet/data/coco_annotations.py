"""The annotations of a COCO file: checked one by one, then kept as flat arrays.

Which of them count is one rule, in docs/evaluation.md under "Which annotations count".
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import ImageInfo, Instance, shown
from sam3_hyperet.data.coco_records import read_box, read_flag, read_id, read_outline, reference
from sam3_hyperet.errors import DataError

_NO_BOX = (math.nan,) * 4
_SLACK, _RELATIVE_SLACK = 2.0, 0.05  # pixels, and fraction of a side, that a box may be off its mask
_TRIED = 8  # run lengths that are read along rows
_SOME_PIXELS = 16  # of a mask's box, for which an area of 1 or less is a fraction of the image
_FROM_MASK, _NO_AREA = "taken from the mask", "area that is no number of pixels"


class AnnotationTable:
    """`add` each record, then `finish`: then (A,) arrays `id`, `image` (a position), `category` and `crowd`, and
    `instance` for a row. `unlabelled`: by position, the categories whose annotations there were all dropped."""

    def __init__(
        self, path: Path, images: list[ImageInfo], categories: Mapping[int, str], crowds_are_instances: bool
    ) -> None:
        """categories: names by id; crowds_are_instances: read `iscrowd: 1` as 0."""
        self.path, self.images, self._categories = path, images, categories
        self._position = {image.image_id: position for position, image in enumerate(images)}
        self._crowds_are_instances = crowds_are_instances
        self.dropped, self.adjusted = Counter[str](), Counter[str]()
        self._seen: dict[int, int | None] = {}  # the row of each id
        self._numbered = 0
        self._rows: list[tuple[int, ...]] = []  # id, image, category, crowd, first polygon, last + 1
        self._stated: list[tuple[float, ...]] = []  # x, y, width, height, area; NaN where it follows from the mask
        self._outlines: list[list[float]] = []
        self._rles: dict[int, masks.Rle] = {}  # by annotation id
        self._lost: list[tuple[int, int]] = []  # image and category of each dropped annotation

    def add(self, record: Mapping[str, Any], where: str) -> None:
        """Check one annotation. Raises DataError; counts and leaves out what has no mask."""
        number, earlier = self._number(record, where)
        where = f"{self.path}: annotation {number}" if number >= 0 else where
        image_id = reference(record, "image_id", self._position, where, self.adjusted)
        category = reference(record, "category_id", self._categories, where, self.adjusted)
        crowd = read_flag(record, "iscrowd", where, self.adjusted)
        if crowd and self._crowds_are_instances:
            self.adjusted["crowd, read as an instance"] += 1
            crowd = 0
        position, first = self._position[image_id], len(self._outlines)
        image = self.images[position]
        box, fault = read_box(record, image)
        if not self._take(record.get("segmentation"), box, number, image, where):
            self._lost.append((position, category))
            return
        row = (number, position, category, bool(crowd), first, len(self._outlines))
        if earlier is not None and self._is_same(row, self._rows[earlier]):
            self.dropped["annotation that is in the file twice"] += 1
            del self._outlines[first:]
            self._rles.pop(number, None)
            return
        if number >= 0:
            self._seen[number] = len(self._rows)
        self._rows.append(row)
        self._stated.append((*(box or _NO_BOX), self._stated_area(record, image)))
        if fault:
            self.adjusted[f"{fault}, {_FROM_MASK}"] += 1

    def _number(self, record: Mapping[str, Any], where: str) -> tuple[int, int | None]:
        """An annotation's id, a negative one until `finish` where it has none of its own; the row that has it, too."""
        number = -1 if record.get("id") is None else read_id(record["id"], f"{where}: its id", self.adjusted)
        if number >= 0 and number not in self._seen:
            self._seen[number] = None
            return number, None
        self._numbered += 1
        self.adjusted["annotation without an id of its own, numbered"] += 1
        return -self._numbered, self._seen.get(number)

    def _is_same(self, row: Sequence[int], other: Sequence[int]) -> bool:
        """Whether two rows are one annotation but for their ids."""
        outlines = [self._outlines[first:last] for *_, first, last in (row, other)]
        masks_of = [self._rles.get(one[0]) for one in (row, other)]
        return row[1:4] == other[1:4] and outlines[0] == outlines[1] and masks_of[0] == masks_of[1]

    def _stated_area(self, record: Mapping[str, Any], image: ImageInfo) -> float:
        area = record.get("area", ...)
        if type(area) in (int, float) and 0 < area <= image.height * image.width:
            return float(area)
        if area is not ...:
            self.adjusted[f"{_NO_AREA}, {_FROM_MASK}"] += 1
        return math.nan

    def _take(self, outline: object, box: tuple[float, ...] | None, number: int, image: ImageInfo, where: str) -> bool:
        """Keep the outline; False if there is nothing of it to keep."""
        shape = read_outline(outline, where, self.adjusted)
        if not shape:
            self.dropped["annotation without box and mask" if box is None else "box without a mask"] += 1
            return False
        if isinstance(shape, dict):
            rle = masks.from_run_lengths(shape, image.height, image.width, where)
            if not masks.area(rle):
                self.dropped["mask without a pixel"] += 1
                return False
            self._rles[number] = rle
            return True
        polygons = [polygon for polygon in shape if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not polygons:
            self.dropped["outline without a polygon of 3 points"] += 1
        elif len(polygons) < len(shape):
            self.adjusted["outline with a polygon of fewer than 3 points"] += 1
        self._outlines += polygons
        return bool(polygons)

    def finish(self) -> None:
        """Turn rows into arrays, check all coordinates at once, leave out what covers no pixel. Raises DataError."""
        rows = np.asarray(self._rows, np.int64).reshape(-1, 6)
        self._boxes = np.asarray(self._stated, np.float64).reshape(-1, 5)
        owner = np.repeat(np.arange(len(rows)), rows[:, 5] - rows[:, 4])  # the row of each polygon
        self._polygons = Polygons(self._outlines, lambda k: f"{self.path}: annotation {rows[owner[k], 0]}")
        self._refuse_fractions()
        self.rectangles = int(
            (self._polygons.are_rectangles() & (np.bincount(owner, minlength=len(rows))[owner] == 1)).sum()
        )
        clipped = self._beyond(rows, owner)
        self._number_anew(rows)
        solid = np.zeros(len(rows), bool)
        solid[owner[~(self._polygons.maybe_empty() | clipped)]] = True
        keep = np.ones(len(rows), bool)
        self.id, self.image, self.category, self.crowd = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3] == 1
        self._from, self._to = rows[:, 4], rows[:, 5]
        for row in np.flatnonzero(~solid & (self._to > self._from)).tolist():
            keep[row] = masks.area(self._rle(row)) > 0
        if empty := int((~keep).sum()):
            self.dropped["mask without a pixel"] += empty
            self._lost += zip(self.image[~keep].tolist(), self.category[~keep].tolist(), strict=True)
        if repaired := len(np.unique(owner[clipped & keep[owner]])):
            self.adjusted["outline beyond the image's border, clipped"] += repaired
        self._check_boxes(owner, keep)
        for column in ("id", "image", "category", "crowd", "_from", "_to", "_boxes"):
            setattr(self, column, getattr(self, column)[keep])
        if not len(self.id):
            count, why = len(self._seen) + self._numbered, f"; dropped {dict(self.dropped)}" if self.dropped else ""
            raise DataError(
                f"{self.path}: none of its {count} annotations has a mask{why}; expected a `segmentation` of "
                "polygons or run lengths, as exports of instance segmentation have, for one annotation or more"
            )
        if self.crowd.all():
            raise DataError(
                f"{self.path}: all of its {len(self.id)} annotations with a mask are crowds (iscrowd: 1), of which "
                "nothing is learnt or scored; if each is one instance, read it so by data.crowds=instances"
            )
        self.unlabelled = self._without_annotation_left()
        del self._rows, self._stated, self._outlines, self._seen, self._position, self._lost

    def _number_anew(self, rows: np.ndarray) -> None:
        """Give annotations without an id of their own those after the largest."""
        largest = max(self._seen, default=0)
        for row in np.flatnonzero(rows[:, 0] < 0).tolist():
            number = largest - int(rows[row, 0])
            if rows[row, 0] in self._rles:
                self._rles[number] = self._rles.pop(int(rows[row, 0]))
            rows[row, 0] = number

    def instance(self, row: int) -> Instance:
        """The annotation of one row."""
        *box, area = self._boxes[row].tolist()
        stated = None if math.isnan(box[0]) else tuple(box), None if math.isnan(area) else area
        return Instance(int(self.category[row]), self._rle(row), bool(self.crowd[row]), int(self.id[row]), *stated)

    def _rle(self, row: int) -> masks.Rle:
        if self._to[row] == self._from[row]:
            return self._rles[int(self.id[row])]
        image = self.images[self.image[row]]
        polygons = [self._polygons.polygon(k) for k in range(self._from[row], self._to[row])]
        return masks.from_polygons(polygons, image.height, image.width)

    def _beyond(self, rows: np.ndarray, owner: np.ndarray) -> np.ndarray:
        """(K,) which polygons reach over the border, to be clipped; by a whole image, they are wrong."""
        sizes = self._sizes(rows[owner, 1])
        beyond = masks.spread_beyond(self._polygons.extents, sizes)
        if (wrong := (beyond > sizes).any(axis=-1)).any():
            k = int(wrong.argmax())
            span, (width, height) = [round(float(v), 1) for v in self._polygons.extents[k]], sizes[k].astype(int)
            where = f"{self.path}: annotation {rows[owner[k], 0]}"
            raise DataError(f"{where}: a polygon spans {span}, the image is {width}x{height}")
        return (beyond > 1).any(axis=-1)

    def _check_boxes(self, owner: np.ndarray, keep: np.ndarray) -> None:
        """Forget the boxes that contradict their masks, which are then taken from the masks."""
        extents = np.full((len(self.id), 4), -np.inf)
        extents[:, :2] = np.inf
        np.minimum.at(extents, (owner, slice(0, 2)), self._polygons.extents[:, :2])
        np.maximum.at(extents, (owner, slice(2, 4)), self._polygons.extents[:, 2:])
        for row in np.flatnonzero(self._to == self._from).tolist():
            x, y, width, height = masks.box(self._rle(row))
            extents[row] = x, y, x + width, y + height
        sizes = np.tile(self._sizes(self.image), 2)
        extents = extents.clip(0, sizes)
        corners = np.concatenate([self._boxes[:, :2], self._boxes[:, :2] + self._boxes[:, 2:4]], axis=1).clip(0, sizes)
        sides = np.tile(extents[:, 2:] - extents[:, :2], 2)
        wrong = keep & (np.abs(corners - extents) > _SLACK + _RELATIVE_SLACK * sides).any(axis=1)  # never of a NaN
        self._refuse_row_order(np.flatnonzero(wrong & (self._to == self._from)))
        fraction = keep & (self._boxes[:, 4] <= 1) & (sides[:, 0] * sides[:, 1] > _SOME_PIXELS)
        self._boxes[fraction, 4] = math.nan
        if fraction.any():
            self.adjusted[f"{_NO_AREA}, {_FROM_MASK}"] += int(fraction.sum())
        self._boxes[wrong, :4] = math.nan
        if wrong.any():
            self.adjusted[f"box that contradicts its mask, {_FROM_MASK}"] += int(wrong.sum())

    def _refuse_fractions(self) -> None:
        """Refuse polygons that all lie between 0 and 1: of an image, they would cover the first pixel."""
        extents = self._polygons.extents
        if (
            len(extents)
            and extents.min() >= 0
            and extents.max() <= 1
            and self._sizes(np.arange(len(self.images))).min() > 2
        ):
            raise DataError(
                f"{self.path}: all of its {len(extents)} polygons lie between 0 and 1, as fractions of the image do; "
                "expected pixels: multiply by the image's width and height"
            )

    def _refuse_row_order(self, rows: np.ndarray) -> None:
        """Refuse run lengths that fit the box of their annotation only if they run along rows."""
        for row in rows[:_TRIED].tolist():
            image, box = self.images[self.image[row]], self._boxes[row, :4]
            other = masks.box(masks.along_rows(self._rle(row)))
            if np.abs(np.asarray(other) - box).max() <= _SLACK + _RELATIVE_SLACK * min(box[2:]):
                raise DataError(
                    f"{self.path}: annotation {self.id[row]}: its run lengths fit its bbox only if they run along "
                    f"rows; COCO's run down the columns of the {image.height}x{image.width} mask (Fortran order)"
                )

    def _sizes(self, positions: np.ndarray) -> np.ndarray:
        """(N, 2) width and height of the images at some positions."""
        return np.asarray([(image.width, image.height) for image in self.images], float)[positions]

    def _without_annotation_left(self) -> dict[int, frozenset[int]]:
        left = set(zip(self.image.tolist(), self.category.tolist(), strict=True)) if self._lost else set()
        found: dict[int, frozenset[int]] = defaultdict(frozenset)
        for position, category in set(self._lost) - left:
            found[position] |= {category}
        return dict(found)


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

    def are_rectangles(self) -> np.ndarray:
        """(K,) which polygons are their own boxes: four corners, the first of them once more at the end or not."""
        found = np.zeros(len(self.extents), bool)
        lengths = np.diff(self.starts)
        for length in (8, 10):
            which = np.flatnonzero(lengths == length)
            points = self.flat[self.starts[which, None] + np.arange(length)].reshape(len(which), length // 2, 2)
            low, high = self.extents[which, None, :2], self.extents[which, None, 2:]
            at_corners = ((points == low) | (points == high)).all(axis=(1, 2))
            one_by_one = ((np.diff(points, axis=1) != 0).sum(axis=2) == 1).all(axis=1)
            is_closed = (points[:, 0] == points[:, -1]).all(axis=1) | (length == 8)
            found[which] = at_corners & one_by_one & is_closed
        return found

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
