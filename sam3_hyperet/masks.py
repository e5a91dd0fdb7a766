"""COCO run-length encodings, checked in bulk before they are counted.

The COCO tools do not refuse a mask whose runs do not cover its image: area and IoU are silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_MAX_BYTES = 7  # of one run: 35 bits
_LAST_DIGIT = (np.arange(256) & 0x0F) - (np.arange(256) & 0x10)  # the last digit of a number carries its sign


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Compressed COCO RLEs, their counts as text, of bool masks (N, H, W)."""
    if not len(masks):
        return []
    rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in rles]


def invalid_rles(counts: Sequence[bytes], areas: Sequence[int]) -> np.ndarray:
    """Which of n compressed RLEs do not decode to their image: (n,) bool.

    counts: the compressed strings; areas: height x width of each image, in pixels. Valid means: only
    characters of the alphabet, ended where a run ends, no run negative, and the runs add up to the area. The
    format: a run is little-endian base 32 in characters from "0", bit 5 set on all but its last; from the
    fourth on, runs are differences to the run two before.
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
    """The runs in rows of two, each record from a row of its own, and the records' first rows.

    So the even and the odd runs stand in columns of their own, and running sums of these undo the differences; the
    first run stands alone.
    """
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
