"""COCO AP and AR from the records of images (`ImageDetections.record`), each image counted any number of times.

Precision is largest where a ground truth has just been found, so only the few detections that meet one are gone
through; of those between, their number is enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sam3_hyperet.evaluation.metrics.instances.instance_matches import AREA_RANGES, IOU_THRESHOLDS
from sam3_hyperet.evaluation.protocol import MAX_DETECTIONS

Records = Sequence[Mapping[str, np.ndarray]]
RECALL_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Ranking:
    """All N detections of P images by category, in each from the best score down, ties in the images' order.

    order: (N,) positions in the records' detections, one after another; image: (N,) which it is of; rank: (N,) among
    those of its image and category; ends: (C,) where each category ends; positives: (P, C, A) ground truths.
    """

    order: np.ndarray
    image: np.ndarray
    rank: np.ndarray
    ends: np.ndarray
    positives: np.ndarray

    @classmethod
    def of(cls, records: Records) -> Ranking:
        counts = np.stack([record["counts"] for record in records]).astype(np.int64)
        columns = np.repeat(np.tile(np.arange(counts.shape[1], dtype=np.uint16), len(records)), counts.ravel())
        scores = np.concatenate([record["scores"] for record in records])
        order = np.argsort(columns, kind="stable")
        ends = np.cumsum(counts.sum(axis=0))
        for start, end in zip(np.concatenate(([0], ends[:-1])), ends, strict=True):
            part = order[start:end]
            order[start:end] = part[np.argsort(-scores[part], kind="stable")]
        image = np.repeat(np.arange(len(records), dtype=np.int32), counts.sum(axis=1))[order]
        starts = np.repeat(np.cumsum(counts.ravel()) - counts.ravel(), counts.ravel())
        rank = (np.arange(len(order)) - starts).astype(np.uint8)[order]
        return cls(order, image, rank, ends, np.stack([record["positives"] for record in records]))


class Matches:
    """The matches of one IoU type at one size in all images; E detections meet a ground truth there.

    area: the size, one of `AREA_RANGES`; in_best: only of the 100 best detections of each image, over all categories.
    In what follows, weights: (P,) int, how often each image counts; -1 where a category has nothing to find.
    """

    def __init__(
        self, records: Records, ranking: Ranking, iou_type: str, area: str = "", in_best: bool = False
    ) -> None:
        a = list(AREA_RANGES).index(area)
        sizes = np.concatenate([record[f"{iou_type}_sizes"] for record in records])
        counted = ((sizes & (0x80 >> a)) != 0)[ranking.order]
        number = _event_numbers(records, iou_type)[ranking.order]
        if in_best:
            best = np.concatenate([np.unpackbits(r["in_best"], count=len(r["scores"])) for r in records])[ranking.order]
            counted &= best != 0
            number[best == 0] = -1
        events = np.flatnonzero(number >= 0)
        found, ignored = (
            _bits(np.concatenate([r[f"{iou_type}_{name}"] for r in records])[number[events]], a)
            for name in ("found", "ignored")
        )
        relevant = (found | ignored).any(axis=1)
        events, self._found, ignored = events[relevant], found[relevant], ignored[relevant]
        self._positives = ranking.positives[:, :, a].astype(np.int64)
        self._image, self._rank = ranking.image[events], ranking.rank[events]
        starts = np.concatenate(([0], ranking.ends[:-1]))
        self._bounds = np.searchsorted(events, np.concatenate(([0], ranking.ends)))  # of each category's events
        self._per_category = np.diff(self._bounds)
        # A match can make a detection count that is not of the size, or not count though it is.
        here = counted[events, None]
        self._changes = (self._found & ~here).astype(np.int8) - (ignored & here)
        # What comes after the last event of its category changes nothing.
        last = np.full(len(starts), -1)
        last[self._per_category > 0] = events[self._bounds[1:][self._per_category > 0] - 1]
        counted &= np.arange(len(counted)) <= np.repeat(last, ranking.ends - starts)
        self._counted_image = ranking.image[counted]
        before = np.concatenate(([0], np.cumsum(counted)))
        self._up_to = before[events + 1]
        self._from = np.repeat(before[starts], self._per_category)

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """(T, C) AP at each IoU threshold of each category."""
        precision, covered = self._curve(weights)
        sums = self._by_category(precision * covered) / len(RECALL_POINTS)
        return np.where(weights @ self._positives > 0, sums, -1.0)

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """(T, R, C) precision at the 101 `RECALL_POINTS`."""
        precision, covered = self._curve(weights)
        there = weights @ self._positives > 0
        curves = np.full((len(IOU_THRESHOLDS), len(RECALL_POINTS), len(there)), -1.0)
        for k in np.flatnonzero(there):
            mine = slice(self._bounds[k], self._bounds[k + 1])
            for t in range(len(IOU_THRESHOLDS)):
                reached = np.repeat(precision[mine, t], covered[mine, t])
                curves[t, :, k] = np.pad(reached, (0, len(RECALL_POINTS) - len(reached)))
        return curves

    def recall(self, weights: np.ndarray, max_detections: int = MAX_DETECTIONS) -> np.ndarray:
        """(T, C) recall of at most `max_detections` of each image and category."""
        found = self._found * (weights[self._image] * (self._rank < max_detections))[:, None]
        positives = weights @ self._positives
        return np.where(positives > 0, self._by_category(found) / np.maximum(positives, 1), -1.0)

    def _curve(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The best precision from each event on, and how many recall points it is the first to reach: (E, T) both."""
        mine = weights[self._image][:, None]
        true = self._running(self._found * mine)
        counts = np.concatenate(([0], np.cumsum(weights[self._counted_image])))
        seen = (counts[self._up_to] - counts[self._from])[:, None] + self._running(self._changes * mine)
        precision = true / np.maximum(seen, 1)
        for start, end in itertools.pairwise(self._bounds.tolist()):
            precision[start:end] = np.maximum.accumulate(precision[start:end][::-1])[::-1]
        positives = np.repeat(np.maximum(weights @ self._positives, 1), self._per_category)
        points = np.searchsorted(RECALL_POINTS, true / positives[:, None], side="right")
        covered = np.diff(points, axis=0, prepend=0)
        first = self._bounds[:-1][self._per_category > 0]
        covered[first] = points[first]
        return precision, covered

    def _running(self, values: np.ndarray) -> np.ndarray:
        """Running sums (E, T) within each category."""
        sums = np.cumsum(values, axis=0)
        before = np.concatenate([np.zeros_like(sums, shape=(1, sums.shape[1])), sums])[self._bounds[:-1]]
        within: np.ndarray = sums - np.repeat(before, self._per_category, axis=0)
        return within

    def _by_category(self, values: np.ndarray) -> np.ndarray:
        """(T, C) sums of (E, T)."""
        sums = np.zeros((len(self._per_category), len(IOU_THRESHOLDS)))
        some = self._per_category > 0
        if some.any():
            sums[some] = np.add.reduceat(values, self._bounds[:-1][some], axis=0)
        by_threshold: np.ndarray = sums.T
        return by_threshold


def _event_numbers(records: Records, iou_type: str) -> np.ndarray:
    """(N,) which of all events each detection is, in the records' order; -1 for the many that are none."""
    lengths = np.array([len(record["scores"]) for record in records])
    offsets = np.cumsum(lengths) - lengths
    events = np.concatenate([r[f"{iou_type}_events"] + offset for r, offset in zip(records, offsets, strict=True)])
    numbers = np.full(lengths.sum(), -1, dtype=np.int32)
    numbers[events] = np.arange(len(events))
    return numbers


def _bits(packed: np.ndarray, a: int) -> np.ndarray:
    """(E, T) bool: those of one size."""
    return np.unpackbits(packed, axis=1)[:, a :: len(AREA_RANGES)][:, : len(IOU_THRESHOLDS)].astype(bool)
