"""COCO run-length encodings: encode, decode, check one or many, rasterise, combine and compare.

The COCO tools do not refuse a mask whose runs do not cover its image: area and IoU are silently wrong. An RLE is a
dictionary of `size`, [height, width] in pixels, and `counts`, compressed (text or bytes) where nothing else is said.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from sam3_hyperet.errors import DataError

Rle = dict[str, Any]
MAX_SIDE = 65_500  # pixels; what a JPEG can hold; keeps height x width within the 32 bits of a run
_LARGE = 2**18  # pixels of an image from which looking for a mask's box pays
_MAX_BYTES = 7  # of one run: 35 bits
_LAST_DIGIT = (np.arange(256) & 0x0F) - (np.arange(256) & 0x10)  # the last digit of a number carries its sign


def encode_masks(masks: np.ndarray) -> list[Rle]:
    """Compressed COCO RLEs, their counts as text, of bool masks (N, H, W)."""
    return [_encode_by_box(mask) if mask.size >= _LARGE else _encode(mask) for mask in masks]


def _encode_by_box(mask: np.ndarray) -> Rle:
    """The RLE of a mask of a large image: most masks are small, and the rest of the image need not be looked at."""
    left, top, part = within_box(mask)
    if 4 * part.size > mask.size:  # `placed` would take longer than the rest of the image, at worst
        return _encode(mask)
    return placed(_encode(part if part.size else mask[:1, :1]), left, top, *mask.shape)


def _encode(mask: np.ndarray) -> Rle:
    import cv2  # late: commands that only read run lengths start without it

    # it turns rows into the columns that COCO reads an order of magnitude quicker than NumPy does
    columns = cv2.transpose(np.asarray(mask, dtype=bool).view(np.uint8)).T
    rle: Rle = coco_mask.encode(columns)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def encode_regions(labels: np.ndarray) -> tuple[list[int], list[Rle]]:
    """The values from 0 of a (H, W) array of integers, in order, and the compressed RLE of each one's pixels.

    In one pass, whatever their number, and without a mask of the image's size for each.
    """
    height, width = labels.shape
    down = labels.T.ravel()  # COCO's runs go down the columns
    starts = np.concatenate([[0], np.flatnonzero(down[1:] != down[:-1]) + 1])
    runs = np.column_stack([starts, np.append(starts[1:], down.size)])
    of_region = np.flatnonzero(down[starts] >= 0)
    of_region = of_region[np.argsort(down[starts[of_region]], kind="stable")]
    found, first = np.unique(down[starts[of_region]], return_index=True)
    rles = []
    for edges in np.split(runs[of_region], first[1:]) if len(found) else ():
        counts = np.diff(edges.ravel(), prepend=0, append=down.size).tolist()
        counts = counts[:-1] if counts[-1] == 0 else counts
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        rles.append({"size": rle["size"], "counts": rle["counts"].decode("ascii")})
    return found.tolist(), rles


def decode(rle: Rle) -> np.ndarray:
    """(H, W) uint8 of 0 and 1 of a compressed RLE; `coco_mask.decode` warns with NumPy 2."""
    runs = _runs(rle["counts"])
    values = np.zeros(len(runs), np.uint8)
    values[1::2] = 1
    mask: np.ndarray = np.repeat(values, runs).reshape(rle["size"][::-1]).T
    return mask


def within_box(mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Left and top of the box around a mask, and what is in it.

    mask: bool (H, W). What is in the box is a view; of an empty mask it has no rows and columns.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0, 0, mask[:0, :0]
    within = mask[rows[0] : rows[-1] + 1]
    columns = np.flatnonzero(within.any(axis=0))
    return int(columns[0]), int(rows[0]), within[:, columns[0] : columns[-1] + 1]


def decode_within_box(rle: Rle) -> tuple[int, int, np.ndarray]:
    """`within_box` of an RLE, without the rest of the image."""
    left, top, width, height = map(int, box(rle))
    rows = rle["size"][0]
    first, last = left * rows, (left + width) * rows
    ends = np.clip(np.cumsum(_runs(rle["counts"])), first, last)
    is_inside = np.arange(len(ends)) % 2 == 1
    columns = np.repeat(is_inside, np.diff(ends, prepend=first)).reshape(width, rows)
    return left, top, np.ascontiguousarray(columns[:, top : top + height].T)


def placed(rle: Rle, left: int, top: int, height: int, width: int) -> Rle:
    """The mask of a part of an image (height, width), whose first pixel lies at (left, top), as one of the image."""
    part_height, part_width = rle["size"]
    if (part_height, part_width) == (height, width):
        return rle
    ends = np.cumsum(_runs(rle["counts"]))
    starts, stops = ends[:-1:2], ends[1::2]
    first = starts // part_height
    columns = (stops - 1) // part_height - first + 1  # that each run reaches into
    run = np.repeat(np.arange(len(starts)), columns)
    column = first[run] + np.arange(len(run)) - (np.cumsum(columns) - columns)[run]
    begin = np.maximum(starts[run] - column * part_height, 0)
    end = np.minimum(stops[run] - column * part_height, part_height)
    origin = (column + left) * height + top
    edges = np.stack([origin + begin, origin + end], axis=1).ravel()
    inner = np.flatnonzero(edges[1:-1:2] == edges[2::2])  # the run goes on at the head of the next column
    edges = np.delete(edges, np.concatenate([2 * inner + 1, 2 * inner + 2]))
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    counts = counts[:-1] if counts[-1] == 0 else counts
    found: Rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": found["size"], "counts": found["counts"].decode("ascii")}


def rectangle(corners: Sequence[int], height: int, width: int) -> Rle:
    """The pixels from (x0, y0) to before (x1, y1), corners within an image (height, width)."""
    left, top, right, bottom = corners
    sides = bottom - top, right - left
    full: Rle = coco_mask.frPyObjects({"size": [*sides], "counts": [0, sides[0] * sides[1]]}, *sides)
    return placed(full, left, top, height, width)


def from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """The union of polygons [x1, y1, x2, y2, …], by COCO's own rasteriser; `spread_beyond` before."""
    return coco_mask.merge(coco_mask.frPyObjects([list(polygon) for polygon in polygons], height, width))  # type: ignore[no-any-return]


def spread_beyond(extents: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(K, 2) pixels by which polygons reach over the right or left, and the bottom or top border.

    COCO's rasteriser takes memory, and then crashes, in proportion to a polygon's extent.
    extents: (K, 4) left, top, right, bottom. sizes: (K, 2) width and height of each one's image.
    """
    return np.maximum(-extents[:, :2], extents[:, 2:] - sizes)  # type: ignore[no-any-return]


def from_run_lengths(rle: dict[str, Any], height: int, width: int, where: str) -> Rle:
    """A COCO RLE as a compressed one. Raises DataError unless its runs fill exactly (height, width)."""
    if rle.get("size") != [height, width]:
        raise DataError(f"{where}: its RLE has the size {rle.get('size')!r:.60}, the image is {[height, width]}")
    counts = rle.get("counts")
    try:
        runs = _runs(counts) if isinstance(counts, str | bytes) else np.asarray(counts)
    except (ValueError, OverflowError, TypeError) as error:
        raise DataError(f"{where}: its RLE cannot be read ({' '.join(str(error).split())})") from None
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or len(runs) == 0 or (runs < 0).any():
        raise DataError(f"{where}: its RLE has the counts {counts!r:.60}, expected whole numbers from 0")
    if (total := sum(runs.tolist())) != height * width:
        raise DataError(f"{where}: its RLE covers {total} pixels, the image has {height * width}")
    if isinstance(counts, str | bytes):
        return {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    return coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)  # type: ignore[no-any-return]


def along_rows(rle: Rle) -> Rle:
    """The mask of the same runs, read along rows instead of down columns."""
    height, width = rle["size"]
    return encode_masks(decode(rle).T.reshape(1, height, width).astype(bool))[0]


def area(rle: Rle) -> int:
    """Pixels of a mask."""
    return int(coco_mask.area(rle))


def box(rle: Rle) -> tuple[float, float, float, float]:
    """COCO's [x, y, width, height] around a mask, in pixels; zeros where it is empty."""
    return tuple(coco_mask.toBbox(rle).tolist())


def union(masks: Sequence[Rle], height: int, width: int) -> Rle:
    """What any of the masks covers; of none, an empty mask."""
    empty = coco_mask.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    return coco_mask.merge([*masks, empty])  # type: ignore[no-any-return]


def intersection_area(a: Rle, b: Rle) -> int:
    """Pixels that both cover."""
    return area(coco_mask.merge([a, b], intersect=True))


def iou(shapes: Sequence[Any], others: Sequence[Any], crowd: Sequence[bool] | None = None) -> np.ndarray:
    """(N, M) IoU of RLEs, or of COCO boxes; with a crowd among `others`, the fraction of the shape inside it."""
    if not len(shapes) or not len(others):
        return np.zeros((len(shapes), len(others)))
    flags = [0] * len(others) if crowd is None else [int(flag) for flag in crowd]
    return coco_mask.iou(list(shapes), list(others), flags)  # type: ignore[no-any-return]


def invalid_rles(counts: Sequence[bytes], areas: Sequence[int]) -> np.ndarray:
    """Which of n compressed RLEs do not decode to their image: (n,) bool.

    areas: height x width of each image, in pixels. Valid means: only characters of the alphabet, ended where a run
    ends, no run negative, and the runs add up to the area. The format: a run is little-endian base 32 in characters
    from "0", bit 5 set on all but its last; from the fourth on, runs are differences to the run two before.
    """
    lengths = np.array([len(c) for c in counts], dtype=np.int64)
    bad: np.ndarray = lengths == 0
    if bad.all():
        return bad
    some = np.flatnonzero(lengths)
    last = np.cumsum(lengths[some]) - 1  # of each string's characters
    codes = np.frombuffer(b"".join(counts), dtype=np.uint8) - np.uint8(48)  # wraps: what is below "0" is above 63
    bad[some[np.searchsorted(last, np.flatnonzero(codes > 63))]] = True
    is_end = (codes & 0x20) == 0
    bad[some[~is_end[last]]] = True
    is_end[last] = True
    ends = np.flatnonzero(is_end)
    starts = np.concatenate(([0], ends[:-1] + 1))
    widths = ends - starts + 1
    last_run = np.searchsorted(ends, last)
    bad[some[np.searchsorted(last_run, np.flatnonzero(widths > _MAX_BYTES))]] = True
    values = _run_values(codes, ends, widths)
    runs, first_rows = _undo_differences(values, np.diff(last_run, prepend=-1))
    if runs.min() < 0:
        negative = np.flatnonzero(runs.min(axis=1) < 0)
        bad[some[np.searchsorted(first_rows, negative, side="right") - 1]] = True
    bad[some] |= np.add.reduceat(runs[:, 0] + runs[:, 1], first_rows) != np.asarray(areas)[some]
    return bad


def _run_values(codes: np.ndarray, ends: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The number of each run, int64, from its last character back; most are of one or two."""
    values: np.ndarray = _LAST_DIGIT[codes[ends]]
    longer = np.flatnonzero(widths > 1)
    for place in range(1, _MAX_BYTES):
        if not len(longer):
            break
        values[longer] = (values[longer] << 5) + (codes[ends[longer] - place] & 0x1F)
        longer = longer[widths[longer] > place + 1]
    return values


def _undo_differences(values: np.ndarray, run_counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The runs in rows of two, each record from a row of its own, and the records' first rows."""
    # so the even and the odd runs stand in columns of their own, whose running sums undo the differences
    rows = (run_counts + 1) // 2
    first_rows = np.cumsum(rows) - rows
    gaps = 2 * first_rows - (np.cumsum(run_counts) - run_counts)
    padded = np.zeros(2 * int(rows.sum()), dtype=np.int64)
    padded[np.arange(len(values)) + np.repeat(gaps, run_counts)] = values
    pairs = padded.reshape(-1, 2)
    sums = np.cumsum(pairs, axis=0)
    before = np.stack([sums[first_rows, 0], sums[first_rows, 1] - pairs[first_rows, 1]], axis=1)
    runs: np.ndarray = sums - np.repeat(before, rows, axis=0)
    runs[first_rows, 0] = pairs[first_rows, 0]
    unused = (first_rows + rows - 1)[run_counts % 2 == 1]
    runs[unused, 1] = 0
    return runs, first_rows


def _runs(counts: str | bytes) -> np.ndarray:
    """Run lengths of one compressed text; `invalid_rles` states the format. Raises ValueError."""
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not len(digits) or digits.min() < 0 or digits.max() > 63:
        raise ValueError("its counts are not COCO's compressed text")
    ends = np.flatnonzero(digits < 32)
    if not len(ends) or ends[-1] != len(digits) - 1:
        raise ValueError("its counts break off within a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    widths = ends - starts + 1
    if widths.max() > _MAX_BYTES:
        raise ValueError("a count is too large")
    runs = _run_values(digits.astype(np.uint8), ends, widths)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
