"""The detections of one image as a few compact arrays, from which every AP and cgF1 follow.

Only a detection that overlaps a ground truth can be matched. The others, most of them, need a score and the sizes that
they count for: ten bytes each. So COCO val with 100 detections of each of 80 categories fits in memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet.evaluation.metrics.instances.cg_f1 import SCORE_THRESHOLD, true_positives
from sam3_hyperet.evaluation.metrics.instances.instance_matches import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    IOU_TYPES,
    SETTINGS,
    Truth,
    Truths,
    match,
    of_size,
)
from sam3_hyperet.evaluation.protocol import MAX_DETECTIONS


class ImageDetections:
    """Collects the detections of one image and gives its record.

    columns: category id -> column, 0 to C - 1. truths: of these categories; as an attribute, by column.
    """

    def __init__(
        self, image_id: int, columns: Mapping[int, int], truths: Iterable[Truth], iou_types: Sequence[str] = IOU_TYPES
    ) -> None:
        self.image_id = image_id
        self.truths = {columns[category_id]: found for category_id, found in Truths.by_category(truths).items()}
        self.column_count = len(columns)
        self._columns = [np.empty(0, dtype=np.int64)]
        self._scores = [np.empty(0)]
        self._is_ranked = [np.empty(0, dtype=bool)]
        self._areas = {iou_type: [np.empty(0)] for iou_type in iou_types}
        self._shapes: dict[str, list[Any]] = {iou_type: [] for iou_type in iou_types}

    def add(
        self,
        columns: np.ndarray,
        scores: np.ndarray,
        areas: Mapping[str, np.ndarray],
        shapes: Mapping[str, Sequence[Any]],
        most: int | None = None,
    ) -> None:
        """Add n detections: columns, scores, areas in pixels (n,), and n shapes (any, of a category not shown).

        most: AP ranks the first of them alone, None for all; every claim counts for cgF1, as in SAM 3.
        """
        self._columns.append(columns)
        self._is_ranked.append(np.arange(len(scores)) < (len(scores) if most is None else most))
        self._scores.append(scores)
        for iou_type, of_type in self._shapes.items():
            self._areas[iou_type].append(areas[iou_type])
            of_type += shapes[iou_type]

    def record(self) -> dict[str, np.ndarray]:
        """The N detections by category, at most 100 of each, M in all, from the best score down, ties as added.

        - `image_id`; `detections` N; `annotations` and `crowds`, numbers; `positives` (C, A) ground truths that count
        - `scores` (M,) float64; `counts` (C,) of them by category; `in_best`, the bits of which are among the picture's
          100 best over all categories
        - `<type>_sizes` (M,): bits, whether its area lies in each of `AREA_RANGES`
        - `<type>_events` (E,): which of the M meet a ground truth at any setting; `<type>_found`, `<type>_ignored`
          (E, 5): the bits (T, A) of which meet one that counts, or one that does not
        - `instances` (C,), `claimed` (C,), `<type>_hits` (C, T): for `sam3_hyperet.evaluation.metrics.instances.cg_f1`
        """
        columns, scores = np.concatenate(self._columns), np.concatenate(self._scores).astype(np.float64)
        is_ranked = np.concatenate(self._is_ranked)
        order = np.lexsort((-scores, columns))  # stable
        order = order[is_ranked[order]]
        counts = np.bincount(columns[is_ranked], minlength=self.column_count)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        order = order[rank < MAX_DETECTIONS]
        counts = np.minimum(counts, MAX_DETECTIONS)
        starts = np.cumsum(counts) - counts
        in_best = np.zeros(len(scores), dtype=bool)
        best = np.argsort(-scores, kind="stable")
        in_best[best[is_ranked[best]][:MAX_DETECTIONS]] = True
        record = {
            "image_id": np.array(self.image_id),
            "scores": scores[order],
            "counts": counts.astype(np.uint8),
            "in_best": np.packbits(in_best[order]),
            "detections": np.array(int(is_ranked.sum())),
            "claimed": np.bincount(columns[scores >= SCORE_THRESHOLD], minlength=self.column_count).astype(np.uint16),
            **self._truth_counts(),
        }
        for iou_type in self._shapes:
            sizes = of_size(np.concatenate(self._areas[iou_type])[order])
            record[f"{iou_type}_sizes"] = np.packbits(sizes, axis=1)[:, 0]
            record |= self._matches(iou_type, columns, scores, order, starts, counts)
        return record

    def _truth_counts(self) -> dict[str, np.ndarray]:
        positives = np.zeros((self.column_count, len(AREA_RANGES)), dtype=np.uint16)
        instances = np.zeros(self.column_count, dtype=np.uint16)
        for column, truths in self.truths.items():
            positives[column] = (~truths.ignored).sum(axis=1)
            instances[column] = (~truths.crowds).sum()
        crowds = sum(int(truths.crowds.sum()) for truths in self.truths.values())
        counts = {"annotations": np.array(int(instances.sum()) + crowds), "crowds": np.array(crowds)}
        return {"positives": positives, "instances": instances, **counts}

    def _matches(
        self,
        iou_type: str,
        columns: np.ndarray,
        scores: np.ndarray,
        order: np.ndarray,
        starts: np.ndarray,
        counts: np.ndarray,
    ) -> dict[str, np.ndarray]:
        events, found, ignored = [np.empty(0, int)], [np.empty((0, *SETTINGS), bool)], [np.empty((0, *SETTINGS), bool)]
        hits = np.zeros((self.column_count, len(IOU_THRESHOLDS)), dtype=np.uint16)
        for column, truths in sorted(self.truths.items()):
            mine = np.flatnonzero(columns == column)
            ious = masks.iou([self._shapes[iou_type][n] for n in mine], truths.shapes[iou_type], truths.crowds.tolist())
            ranked = order[starts[column] : starts[column] + counts[column]]
            matched, to_ignored = match(ious[np.searchsorted(mine, ranked)], truths)
            met = np.flatnonzero(matched.any(axis=(1, 2)))
            events.append(starts[column] + met)
            found.append((matched & ~to_ignored)[met])
            ignored.append(to_ignored[met])
            hits[column] = true_positives(ious[scores[mine] >= SCORE_THRESHOLD][:, ~truths.crowds], IOU_THRESHOLDS)
        bits = {
            f"{iou_type}_{name}": np.packbits(np.concatenate(one).reshape(-1, SETTINGS[0] * SETTINGS[1]), axis=1)
            for name, one in (("found", found), ("ignored", ignored))
        }
        return {f"{iou_type}_events": np.concatenate(events).astype(np.int32), **bits, f"{iou_type}_hits": hits}
