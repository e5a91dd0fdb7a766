"""The annotations of a COCO file: checked one by one or many at once, then kept as flat arrays.

Which of them count is one rule, in docs/evaluation.md under "Which annotations count".
"""

import math
import sys
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet.arrays import polygons
from sam3_hyperet.arrays.ragged import Ragged
from sam3_hyperet.data.annotations import shown
from sam3_hyperet.data.coco_records import Id, is_foreign, read_box, read_flag, read_id, read_outline, reference
from sam3_hyperet.errors import DataError

_NO_BOX = (math.nan,) * 4
_SLACK, _RELATIVE_SLACK = 2.0, 0.05  # pixels, and fraction of a side, that a box may be off its mask
_TRIED = 8  # run lengths that are read along rows
_SOME_PIXELS = 16  # of a mask's box, for which an area of 1 or less is a fraction of the image
_FROM_MASK, _NO_AREA = "taken from the mask", "area that is no number of pixels"
_COLUMNS = 6  # of a row: id, image, category, crowd (and `_BOXED` more), and the two of `CocoFile.parts`
_BOXED = 2  # of a box without a mask


class AnnotationTable:
    """`add` the records in the file's order, then `finish`."""

    def __init__(
        self,
        path: Path,
        image_ids: Sequence[Id],
        sizes: np.ndarray,
        categories: Mapping[Id, int],
        *,
        boxes: bool = False,
    ) -> None:
        """sizes: (N, 2) height, width. categories: numbers by id. boxes: keep boxes without a mask, as rectangles."""
        self.path, self.categories, self.boxes = path, categories, boxes
        self.position = {image_id: position for position, image_id in enumerate(image_ids)}
        self.dropped, self.adjusted = Counter[str](), Counter[str]()
        self.crowds = 0
        self.seen: dict[int, int | None] = {}  # the row of each id
        self.sizes, self._size = sizes, sizes.tolist()
        self._numbered = 0
        # arrays grow in place, so that there is never a second copy of all coordinates
        self._rows, self._stated = array("q"), array("d")
        self._points, self._ends = array("d"), array("q", [0])
        self._run_lengths: list[bytes] = []
        self._lost: list[tuple[int, int]] = []  # image and category of each dropped annotation
        self._without_mask: list[tuple[int, int]] = []  # and of the boxes among them

    def add(self, record: Mapping[str, Any], where: str) -> None:
        """Check one annotation. Raises DataError; counts and leaves out what has no mask."""
        number, earlier = self._number(record, where)
        where = f"{self.path}: annotation {number}" if number >= 0 else where
        position = reference(record, "image_id", self.position, where, self.adjusted)
        category = reference(record, "category_id", self.categories, where, self.adjusted)
        crowd = read_flag(record, "iscrowd", where, self.adjusted)
        if read_flag(record, "ignore", where, self.adjusted) and not crowd:
            self.adjusted["annotation marked `ignore`, read as a crowd"] += 1
            crowd = 1
        self.crowds += crowd
        height, width = self._size[position]
        box, fault = read_box(record, height, width)
        outline = record.get("segmentation")
        boxed = box if self.boxes and not outline else None
        if boxed is not None:
            outline = [_rectangle(boxed, height, width)]
            if boxed[0] < -1 or boxed[1] < -1 or boxed[0] + boxed[2] > width + 1 or boxed[1] + boxed[3] > height + 1:
                self.adjusted["box beyond the image's border, clipped"] += 1
        parts = self._take(outline, box, height, width, where)
        if parts is None:
            self._lost.append((position, category))
            if box is not None and not outline:
                self._without_mask.append((position, category))
            return
        row = (number, position, category, crowd + _BOXED * (boxed is not None), *parts)
        if earlier is not None and self._is_same(row, self._row(earlier)):
            self.dropped["annotation that is in the file twice"] += 1
            self._take_back(*parts)
            return
        if number >= 0:
            self.seen[number] = len(self._rows) // _COLUMNS
        self._rows.extend(row)
        self._stated.extend((*(box or _NO_BOX), self._stated_area(record, height * width)))
        if fault:
            self.adjusted[f"{fault}, {_FROM_MASK}"] += 1

    def add_usual(self, rows: np.ndarray, stated: np.ndarray, outlines: Sequence[Sequence[list[float]]]) -> None:
        """Add annotations of polygons in which `add` would find nothing wrong and nothing to repair, by new ids.

        rows: (n, 4) id, position of the image, category and crowd. stated: (n, 5) x, y, width, height, area, or NaN.
        """
        self.seen.update(zip(rows[:, 0].tolist(), range(len(self._rows) // _COLUMNS, sys.maxsize), strict=False))
        self.crowds += int(rows[:, 3].sum())
        last = len(self._ends) - 1 + np.cumsum([len(outline) for outline in outlines])
        first = np.concatenate([[len(self._ends) - 1], last[:-1]])
        self._rows.frombytes(np.column_stack([rows, first, last]).astype(np.int64).tobytes())
        self._stated.frombytes(stated.tobytes())
        for polygon in chain.from_iterable(outlines):
            self._points.fromlist(polygon)
            self._ends.append(len(self._points))

    def _number(self, record: Mapping[str, Any], where: str) -> tuple[int, int | None]:
        """An annotation's id, a negative one until `finish` where it has none of its own; the row that has it, too."""
        given = record.get("id")
        number = -1 if given is None or is_foreign(given) else read_id(given, f"{where}: its id", self.adjusted)
        if number >= 0 and number not in self.seen:
            self.seen[number] = None
            return number, None
        self._numbered += 1
        self.adjusted["annotation without an id of its own, numbered"] += 1
        return -self._numbered, self.seen.get(number)

    def _row(self, row: int) -> Sequence[int]:
        return self._rows[row * _COLUMNS : (row + 1) * _COLUMNS]

    def _is_same(self, row: Sequence[int], other: Sequence[int]) -> bool:
        """Whether two rows are one annotation but for their ids."""
        return tuple(row[1:4]) == tuple(other[1:4]) and self._outline(*row[4:]) == self._outline(*other[4:])

    def _outline(self, first: int, last: int) -> object:
        if first == last:
            return self._run_lengths[first]
        return [self._points[self._ends[k] : self._ends[k + 1]] for k in range(first, last)]

    def _take_back(self, first: int, last: int) -> None:
        """Remove the outline that was taken last."""
        if first == last:
            del self._run_lengths[first:]
        else:
            del self._ends[first + 1 :]
            del self._points[self._ends[-1] :]

    def _stated_area(self, record: Mapping[str, Any], pixels: int) -> float:
        area = record.get("area", ...)
        if type(area) in (int, float) and 0 < area <= pixels:
            return float(area)
        if area is not ...:
            self.adjusted[f"{_NO_AREA}, {_FROM_MASK}"] += 1
        return math.nan

    def _take(
        self, outline: object, box: tuple[float, ...] | None, height: int, width: int, where: str
    ) -> tuple[int, int] | None:
        """Keep the outline and return its parts; None if there is nothing of it to keep."""
        shape = read_outline(outline, where, self.adjusted)
        if not shape:
            self.dropped["annotation without box and mask" if box is None else "box without a mask"] += 1
            return None
        if isinstance(shape, dict):
            rle = masks.from_run_lengths(shape, height, width, where)
            if not masks.area(rle):
                self.dropped["mask without a pixel"] += 1
                return None
            self._run_lengths.append(rle["counts"])
            return len(self._run_lengths) - 1, len(self._run_lengths) - 1
        kept = [polygon for polygon in shape if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not kept:
            self.dropped["outline without a polygon of 3 points"] += 1
            return None
        if len(kept) < len(shape):
            self.adjusted["outline with a polygon of fewer than 3 points"] += 1
        first = len(self._ends) - 1
        for polygon in kept:
            _check_numbers(polygon, where)
            self._points.extend(polygon)
            self._ends.append(len(self._points))
        return first, first + len(kept)

    def finish(self) -> dict[str, Any]:
        """The fields of a `CocoFile` that are of annotations: those that cover a pixel. Raises DataError."""
        rows = np.frombuffer(self._rows, np.int64).reshape(-1, _COLUMNS)
        stated = np.frombuffer(self._stated, np.float64).reshape(-1, 5)
        outlines = Ragged(np.frombuffer(self._points, np.float64), np.frombuffer(self._ends, np.int64))
        images, parts = rows[:, 1], rows[:, 4:]
        owner = np.repeat(np.arange(len(rows)), parts[:, 1] - parts[:, 0])  # the row of each polygon
        reach = polygons.extents(outlines)
        self._refuse_fractions(reach)
        self._refuse_corners(rows[rows[:, 3] >= _BOXED], stated[rows[:, 3] >= _BOXED])
        clipped = self._beyond(reach, rows[owner, 0], images[owner])
        self._number_anew(rows)
        solid = parts[:, 0] == parts[:, 1]
        solid[owner[~(polygons.maybe_empty(outlines) | clipped)]] = True
        keep = np.ones(len(rows), bool)
        for row in np.flatnonzero(~solid).tolist():
            outline = [outlines[k].tolist() for k in range(*parts[row].tolist())]
            keep[row] = masks.area(masks.from_polygons(outline, *self._size[images[row]])) > 0
        if empty := int((~keep).sum()):
            self.dropped["mask without a pixel"] += empty
            self._lost += zip(images[~keep].tolist(), rows[~keep, 2].tolist(), strict=True)
        if repaired := len(np.unique(owner[clipped & keep[owner]])):
            self.adjusted["outline beyond the image's border, clipped"] += repaired
        stated = self._believable(stated, self._mask_boxes(rows, owner, reach), rows, keep)[keep]
        if not keep.any():
            count = len(self.seen) + self._numbered
            dropped = "; dropped " * bool(self.dropped) + ", ".join(f"{n} × {why}" for why, n in self.dropped.items())
            raise DataError(
                f"{self.path}: none of its {count} annotations has a mask{dropped}; expected a `segmentation` of "
                "polygons or run lengths, as exports of instance segmentation have, for one annotation or more; or "
                "data.boxes=instances, to learn and score boxes alone"
            )
        is_rectangle = polygons.are_rectangles(outlines, reach)
        is_rectangle &= np.bincount(owner, minlength=len(keep))[owner] == 1
        is_rectangle &= rows[owner, 3] < _BOXED
        rows = rows[keep]
        return {
            "dropped": dict(self.dropped),
            "adjusted": dict(self.adjusted),
            "crowds": self.crowds,
            "rectangles": int(is_rectangle.sum()),
            **self._of_dropped(rows),
            "rows": Ragged.grouped(rows[:, 1], np.arange(len(rows)), len(self._size)),
            "ids": rows[:, 0].copy(),
            "images": rows[:, 1].copy(),
            "categories": rows[:, 2].copy(),
            "crowd": rows[:, 3] % _BOXED == 1,
            "boxed": rows[:, 3] >= _BOXED,
            "stated": stated,
            "parts": rows[:, 4:].copy(),
            "polygons": outlines,
            "run_lengths": Ragged.of_bytes(self._run_lengths),
        }

    def _number_anew(self, rows: np.ndarray) -> None:
        """Give annotations without an id of their own those after the largest."""
        without = rows[:, 0] < 0
        rows[without, 0] = max(self.seen, default=0) - rows[without, 0]

    def _beyond(self, reach: np.ndarray, ids: np.ndarray, images: np.ndarray) -> np.ndarray:
        """(K,) which polygons reach over the border, to be clipped; by a whole image, they are wrong."""
        if not np.isfinite(reach).all():
            k = int(np.flatnonzero(~np.isfinite(reach).all(axis=-1))[0])
            raise DataError(f"{self.path}: annotation {ids[k]}: a polygon has a coordinate that is not finite")
        sizes = self.sizes[images, ::-1]
        beyond = masks.spread_beyond(reach, sizes)
        if (wrong := (beyond > sizes).any(axis=-1)).any():
            k = int(wrong.argmax())
            span, (width, height) = [round(float(v), 1) for v in reach[k]], sizes[k]
            where = f"{self.path}: annotation {ids[k]}"
            raise DataError(f"{where}: a polygon spans {span}, the image is {width}x{height}")
        return np.asarray((beyond > 1).any(axis=-1))

    def _mask_boxes(self, rows: np.ndarray, owner: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """(A, 4) left, top, right, bottom of each row's outline, within the image."""
        found = np.full((len(rows), 4), -np.inf)
        found[:, :2] = np.inf
        np.minimum.at(found[:, :2], owner, reach[:, :2])
        np.maximum.at(found[:, 2:], owner, reach[:, 2:])
        for row in np.flatnonzero(rows[:, 4] == rows[:, 5]).tolist():
            x, y, width, height = masks.box(self._rle(rows[row]))
            found[row] = x, y, x + width, y + height
        return found.clip(0, self._corners(rows))

    def _believable(self, stated: np.ndarray, found: np.ndarray, rows: np.ndarray, keep: np.ndarray) -> np.ndarray:
        """`stated` without what contradicts the masks: boxes, and areas that are fractions."""
        corners = np.concatenate([stated[:, :2], stated[:, :2] + stated[:, 2:4]], axis=1).clip(0, self._corners(rows))
        sides = np.tile(found[:, 2:] - found[:, :2], 2)
        wrong = keep & (np.abs(corners - found) > _SLACK + _RELATIVE_SLACK * sides).any(axis=1)  # never of a NaN
        self._refuse_row_order(rows[wrong & (rows[:, 4] == rows[:, 5])], stated[wrong & (rows[:, 4] == rows[:, 5])])
        fraction = keep & (stated[:, 4] <= 1) & (sides[:, 0] * sides[:, 1] > _SOME_PIXELS)
        believed: np.ndarray = stated.copy()
        believed[fraction, 4] = math.nan
        believed[wrong, :4] = math.nan
        for fault, which in (("box that contradicts its mask", wrong), (_NO_AREA, fraction)):
            if which.any():
                self.adjusted[f"{fault}, {_FROM_MASK}"] += int(which.sum())
        return believed

    def _refuse_fractions(self, reach: np.ndarray) -> None:
        """Refuse polygons that all lie between 0 and 1: of an image, they would cover the first pixel."""
        if len(reach) and reach.min() >= 0 and reach.max() <= 1 and self.sizes.min() > 2:
            raise DataError(
                f"{self.path}: all of its {len(reach)} outlines lie between 0 and 1, as fractions of the image do; "
                "expected pixels: multiply by the image's width and height"
            )

    def _refuse_corners(self, rows: np.ndarray, stated: np.ndarray) -> None:
        """Refuse boxes that fit their images as two corners, and do not as a corner and a size."""
        if not len(rows):
            return
        x, y, right, bottom = stated[:, :4].T
        width, height = self._corners(rows)[:, :2].T
        are_corners = (right > x) & (bottom > y) & (right <= width + 1) & (bottom <= height + 1)
        beyond = (x + right > (1 + _RELATIVE_SLACK) * width + _SLACK) | (
            y + bottom > (1 + _RELATIVE_SLACK) * height + _SLACK
        )
        if are_corners.all() and beyond.any():
            row = int(beyond.argmax())
            raise DataError(
                f"{self.path}: annotation {rows[row, 0]}: its bbox {stated[row, :4].tolist()} is beyond the image "
                f"({width[row]}x{height[row]}) as [x, y, width, height], and all fit as [left, top, right, bottom]; "
                "expected widths and heights"
            )

    def _refuse_row_order(self, rows: np.ndarray, stated: np.ndarray) -> None:
        """Refuse run lengths that fit the box of their annotation only if they run along rows."""
        for row, box in zip(rows[:_TRIED], stated[:_TRIED, :4], strict=True):
            rle = self._rle(row)
            other = masks.box(masks.along_rows(rle))
            if np.abs(np.asarray(other) - box).max() <= _SLACK + _RELATIVE_SLACK * min(box[2:]):
                height, width = rle["size"]
                raise DataError(
                    f"{self.path}: annotation {row[0]}: its run lengths fit its bbox only if they run along "
                    f"rows; COCO's run down the columns of the {height}x{width} mask (Fortran order)"
                )

    def _rle(self, row: np.ndarray) -> masks.Rle:
        """The run lengths of a row that has no polygons."""
        return {"size": self._size[row[1]], "counts": self._run_lengths[row[4]]}

    def _corners(self, rows: np.ndarray) -> np.ndarray:
        """(A, 4) width, height, width, height of each row's image."""
        return np.tile(self.sizes[rows[:, 1], ::-1], 2)

    def _of_dropped(self, rows: np.ndarray) -> dict[str, Ragged]:
        """The `unlabelled` and the `partly` of a `CocoFile`."""
        left = set(zip(rows[:, 1].tolist(), rows[:, 2].tolist(), strict=True)) if self._lost else set()
        found = {"unlabelled": set(self._lost) - left, "partly": set(self._without_mask) & left}
        return {name: Ragged.of_pairs(sorted(pairs), len(self._size)) for name, pairs in found.items()}


def _rectangle(box: tuple[float, ...], height: int, width: int) -> list[float]:
    """The outline of a box [x, y, width, height], within the image."""
    x, y, w, h = map(float, box)
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    return [left, top, right, top, right, bottom, left, bottom]


def _check_numbers(polygon: Sequence[Any], where: str) -> None:
    for value in polygon:
        if type(value) is not float and (type(value) is not int or abs(value) > sys.float_info.max):
            raise DataError(f"{where}: a polygon has the coordinate {shown(value)}, expected a number")
