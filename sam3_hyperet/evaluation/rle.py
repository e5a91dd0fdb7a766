"""COCO run-length encodings, checked in bulk before they are counted.

The COCO tools do not refuse a mask whose runs do not cover its image: area and IoU are silently wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

_MAX_BYTES = 7  # of one run: 35 bits


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
    n = len(counts)
    lengths = np.array([len(c) for c in counts], dtype=np.int64)
    if n == 0 or not lengths.any():
        return np.ones(n, dtype=bool)
    bad: np.ndarray = lengths == 0
    codes = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - 48
    record = np.repeat(np.arange(n), lengths)
    bad[record[(codes < 0) | (codes > 63)]] = True

    is_end = (codes & 0x20) == 0
    last = np.cumsum(lengths)[lengths > 0] - 1
    bad[record[last[~is_end[last]]]] = True
    is_end[last] = True
    ends = np.flatnonzero(is_end)
    starts = np.concatenate(([0], ends[:-1] + 1))
    width = ends - starts + 1
    owner = record[starts]
    bad[owner[width > _MAX_BYTES]] = True

    digit = np.minimum(np.arange(len(codes)) - np.repeat(starts, width), _MAX_BYTES)
    values = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    values -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * np.minimum(width, _MAX_BYTES + 1)), 0)

    # Undo the differences: running sums over each record's odd and even runs (the first stands alone).
    per_record = np.bincount(owner, minlength=n)
    index = np.arange(len(owner)) - np.repeat(np.cumsum(per_record) - per_record, per_record)
    chain = owner * 3 + np.where(index == 0, 0, 1 + index % 2)
    order = np.argsort(chain, kind="stable")
    sums = np.cumsum(values[order])
    first = np.flatnonzero(np.diff(chain[order], prepend=-1))
    before = np.repeat((sums - values[order])[first], np.diff(first, append=len(order)))
    runs = sums - before
    bad[owner[order][runs < 0]] = True
    totals = np.bincount(owner[order], weights=runs, minlength=n)
    bad |= totals != np.asarray(areas)
    return bad
