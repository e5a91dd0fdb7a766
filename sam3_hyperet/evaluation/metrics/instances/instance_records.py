"""The detections of one picture as a few compact arrays, from which every AP and cgF1 follow.

Only a detection that overlaps a ground truth can be matched. The others, most of them, need a score and the sizes that
they count for: ten bytes each. So COCO val with 100 detections of each of 80 categories fits in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet.evaluation.metrics.instances.cg_f1 import SCORE_THRESHOLD, true_positives
from sam3_hyperet.evaluation.metrics.instances.instance_matches import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    IOU_TYPES,
    MAX_DETECTIONS,
    SETTINGS,
    Truths,
    match,
    of_size,
)
from sam3_hyperet.evaluation.scoring.coco import GroundTruth
from sam3_hyperet.evaluation.scoring.coco import Record as CocoRecord


class PictureDetections:
    """Collects the detections of one picture and gives its record.

    A category is a column: its position among the C ids of the ground truth, sorted. truths: what is there, by column.
    """

    def __init__(self, ground_truth: GroundTruth, image_id: int, iou_types: Sequence[str] = IOU_TYPES) -> None:
        self.image_id = image_id
        columns = {category_id: k for k, category_id in enumerate(sorted(ground_truth.categories))}
        shown = Truths.by_category(ground_truth, image_id, iou_types)
        self.truths = {columns[category_id]: truths for category_id, truths in shown.items()}
        self.column_count = len(columns)
        self._columns = [np.empty(0, dtype=np.int64)]
        self._scores = [np.empty(0)]
        self._areas = {iou_type: [np.empty(0)] for iou_type in iou_types}
        self._shapes: dict[str, list[Any]] = {iou_type: [] for iou_type in iou_types}

    def add(
        self,
        columns: np.ndarray,
        scores: np.ndarray,
        areas: Mapping[str, np.ndarray],
        shapes: Mapping[str, Sequence[Any]],
    ) -> None:
        """Add n detections: columns (n,), scores (n,), areas (n,) in pixels and n COCO boxes or RLEs by IoU type.

        The shape of a detection whose category the picture does not show is not looked at.
        """
        self._columns.append(columns)
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
        order = np.lexsort((-scores, columns))  # stable
        counts = np.bincount(columns, minlength=self.column_count)
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        order = order[rank < MAX_DETECTIONS]
        counts = np.minimum(counts, MAX_DETECTIONS)
        starts = np.cumsum(counts) - counts
        in_best = np.zeros(len(scores), dtype=bool)
        in_best[np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]] = True
        record = {
            "image_id": np.array(self.image_id),
            "scores": scores[order],
            "counts": counts.astype(np.uint8),
            "in_best": np.packbits(in_best[order]),
            "detections": np.array(len(scores)),
            "claimed": np.bincount(columns[scores >= SCORE_THRESHOLD], minlength=self.column_count).astype(np.uint16),
            **self._truth_counts(),
        }
        for iou_type in self._shapes:
            sizes = of_size(np.concatenate(self._areas[iou_type])[order])
            record[f"{iou_type}_sizes"] = np.packbits(sizes, axis=1)[:, 0]
            record |= self._matches(iou_type, columns, scores, order, starts)
        return record

    def _truth_counts(self) -> dict[str, np.ndarray]:
        positives = np.zeros((self.column_count, len(AREA_RANGES)), dtype=np.uint16)
        instances = np.zeros(self.column_count, dtype=np.uint16)
        for column, truths in self.truths.items():
            positives[column] = (~truths.ignored).sum(axis=1)
            instances[column] = (~truths.crowds).sum()
        crowds = sum(int(truths.crowds.sum()) for truths in self.truths.values())
        return {
            "positives": positives,
            "instances": instances,
            "annotations": np.array(int(instances.sum()) + crowds),
            "crowds": np.array(crowds),
        }

    def _matches(
        self, iou_type: str, columns: np.ndarray, scores: np.ndarray, order: np.ndarray, starts: np.ndarray
    ) -> dict[str, np.ndarray]:
        events, found, ignored = [np.empty(0, int)], [np.empty((0, *SETTINGS), bool)], [np.empty((0, *SETTINGS), bool)]
        hits = np.zeros((self.column_count, len(IOU_THRESHOLDS)), dtype=np.uint16)
        for column, truths in sorted(self.truths.items()):
            mine = np.flatnonzero(columns == column)
            ious = masks.iou([self._shapes[iou_type][n] for n in mine], truths.shapes[iou_type], truths.crowds)
            ranked = order[starts[column] : starts[column] + min(len(mine), MAX_DETECTIONS)]
            matched, to_ignored = match(ious[np.searchsorted(mine, ranked)], truths)
            met = np.flatnonzero(matched.any(axis=(1, 2)))
            events.append(starts[column] + met)
            found.append((matched & ~to_ignored)[met])
            ignored.append(to_ignored[met])
            hits[column] = true_positives(ious[scores[mine] >= SCORE_THRESHOLD][:, ~truths.crowds], IOU_THRESHOLDS)
        return {
            f"{iou_type}_events": np.concatenate(events).astype(np.int32),
            f"{iou_type}_found": np.packbits(np.concatenate(found).reshape(-1, SETTINGS[0] * SETTINGS[1]), axis=1),
            f"{iou_type}_ignored": np.packbits(np.concatenate(ignored).reshape(-1, SETTINGS[0] * SETTINGS[1]), axis=1),
            f"{iou_type}_hits": hits,
        }


def records_of_results(
    ground_truth: GroundTruth,
    detections: Sequence[CocoRecord],
    image_ids: Sequence[int],
    iou_types: Sequence[str] = IOU_TYPES,
) -> list[dict[str, np.ndarray]]:
    """The record of each image from `check_detections`' records; those of an image in the order of the file.

    A box is the record's own, or its mask's where it has none.
    """
    by_image: dict[int, list[CocoRecord]] = {image_id: [] for image_id in image_ids}
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    columns = {category_id: k for k, category_id in enumerate(sorted(ground_truth.categories))}
    records = []
    for image_id, found in by_image.items():
        picture = PictureDetections(ground_truth, image_id, iou_types)
        sized = {iou_type: [sized_shape(d, iou_type) for d in found] for iou_type in iou_types}
        picture.add(
            np.array([columns[d["category_id"]] for d in found], dtype=np.int64),
            np.array([d["score"] for d in found]),
            areas={iou_type: np.array([area for area, _ in every]) for iou_type, every in sized.items()},
            shapes={iou_type: [shape for _, shape in every] for iou_type, every in sized.items()},
        )
        records.append(picture.record())
    return records


def sized_shape(detection: CocoRecord, iou_type: str) -> tuple[float, Any]:
    """Area in pixels, and COCO box or RLE. A mask's area is its own; a box's its own, or that of its only mask."""
    if iou_type == "segm":
        return float(masks.area(detection["segmentation"])), detection["segmentation"]
    if "bbox" in detection:
        return float(detection["bbox"][2] * detection["bbox"][3]), detection["bbox"]
    return float(masks.area(detection["segmentation"])), list(masks.box(detection["segmentation"]))
