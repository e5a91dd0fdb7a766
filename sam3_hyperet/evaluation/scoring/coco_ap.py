"""COCO average precision of boxes and masks of result files.

Protocol: pycocotools'. IoU .50:.05:.95, 101 recall points, at most 100 detections per image *and category*,
crowds ignored, small/medium/large at 32² and 96² pixels, -1 where there is nothing to find. `AP@100/img`
first keeps the 100 best detections of each image over all categories, as SAM 3's own evaluation does. The
size of a mask result is its mask's even where it has a `bbox` (pycocotools would take the box's); that of a
box result is its box's, or its mask's where the record has only a mask (so in pycocotools).

Of an image with LVIS's keys, as in `evaluate` and in LVIS's own evaluation: detections of categories that are neither
annotated there nor in `neg_category_ids` are left out; of those in `not_exhaustive_category_ids`, a detection that
matches no annotation is ignored.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.instances.instance_matches import IOU_TYPES, unannotated_rest
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import category_columns, check_groups, instance_metrics
from sam3_hyperet.evaluation.metrics.instances.instance_records import ImageDetections
from sam3_hyperet.evaluation.scoring.coco import GroundTruth, Record, check_detections, check_masks
from sam3_hyperet.reading import read_json
from sam3_hyperet.wording import count_of


def score_coco_files(
    ground_truth: str | Path,
    predictions: str | Path,
    iou_types: Sequence[str] | None = None,
    groups: Mapping[str, Collection[int]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """AP, AR and cgF1 of a COCO results file against all images of an instances file.

    iou_types: by default boxes and masks where the results have masks, else boxes; a record without `bbox` has its
        mask's. groups: category ids by name, which are averaged apart as well. say: called with a line about what
        does not count, where the images have LVIS's keys.
    Returns the keys of `instance_metrics`: `segm/AP`, and so on with AP50, AP75, APs, APm, APl, AR@1, AR@10, AR@100,
    ARs, ARm, ARl, AP@100/img and AP/<category>; the same under `bbox/`; `<group>/segm/AP`…; `images`, `annotations`,
    `crowds`, `detections`, and `left_out`, how many do not count. Averages are over the categories that occur; -1 where
    none does.
    Raises ConfigError for an unknown IoU type or group, DataError naming the file and record that cannot be used.
    """
    truth = GroundTruth.read(ground_truth)
    records = check_detections(read_json(predictions), truth, str(predictions))
    if iou_types is None:
        iou_types = IOU_TYPES if not records or any("segmentation" in one for one in records) else ("bbox",)
    return score_detections(truth, records, iou_types, groups, str(predictions), say)


def score_detections(
    truth: GroundTruth,
    detections: Sequence[Record],
    iou_types: Sequence[str] = IOU_TYPES,
    groups: Mapping[str, Collection[int]] | None = None,
    source: str = "detections",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """The metrics of `score_coco_files` from `check_detections`' records."""
    groups = {str(name): list(ids) for name, ids in (groups or {}).items()}
    if unknown := set(iou_types) - set(IOU_TYPES):
        raise ConfigError(f"unknown IoU type {sorted(unknown)}; the types are {', '.join(IOU_TYPES)}")
    check_groups(groups, truth.categories, truth.source)
    if not truth.sizes:
        raise DataError(f"{truth.source}: no images to score")
    if "segm" in iou_types:
        check_masks(detections, source)
    records = records_of_results(truth, detections, sorted(truth.sizes), iou_types)
    left_out = len(detections) - sum(int(record["detections"]) for record in records)
    if truth.absent:
        say(f"{source}: {_what_does_not_count(truth, left_out, len(detections))}")
    return instance_metrics(records, truth.categories, groups) | {"left_out": left_out}


def _what_does_not_count(truth: GroundTruth, left_out: int, count: int) -> str:
    pairs = sum(len(truth.not_exhaustive(image_id)) for image_id in truth.absent)
    return (
        f"{left_out:,} of {count_of(count, 'detection')} are left out: of a category that is neither annotated in the "
        f"image nor in its neg_category_ids, nothing is known there; in {pairs:,} pairs of an image and a category of "
        "its not_exhaustive_category_ids, a detection that matches no annotation is ignored"
    )


def records_of_results(
    ground_truth: GroundTruth,
    detections: Sequence[Record],
    image_ids: Sequence[int],
    iou_types: Sequence[str] = IOU_TYPES,
) -> list[dict[str, np.ndarray]]:
    """The record of each image from `check_detections`' records; a box is the record's own, or its mask's.

    Detections of a category that the image says nothing of are left out. `unknown` as in `InstanceEvaluator.finish`.
    """
    by_image: dict[int, list[Record]] = {image_id: [] for image_id in image_ids}
    for detection in detections:
        by_image[detection["image_id"]].append(detection)
    columns = category_columns(ground_truth.categories)
    records = []
    for image_id, every in by_image.items():
        unlabelled, partly = ground_truth.unlabelled(image_id), ground_truth.not_exhaustive(image_id)
        found = [one for one in every if one["category_id"] not in unlabelled]
        truths = ground_truth.truths(image_id, iou_types)
        truths += [unannotated_rest(one, *ground_truth.sizes[image_id]) for one in sorted(partly)]
        image = ImageDetections(image_id, columns, truths, iou_types)
        sized = {iou_type: [sized_shape(d, iou_type) for d in found] for iou_type in iou_types}
        areas = {iou_type: np.array([area for area, _ in every]) for iou_type, every in sized.items()}
        shapes = {iou_type: [shape for _, shape in every] for iou_type, every in sized.items()}
        category = np.array([columns[d["category_id"]] for d in found], dtype=np.int64)
        image.add(category, np.array([d["score"] for d in found]), areas, shapes)
        records.append(image.record() | {"unknown": np.isin(list(columns), list(unlabelled | partly))})
    return records


def sized_shape(detection: Record, iou_type: str) -> tuple[float, Any]:
    """Area in pixels, and COCO box or RLE. A mask's area is its own; a box's its own, or that of its only mask."""
    if iou_type == "segm":
        return float(masks.area(detection["segmentation"])), detection["segmentation"]
    if "bbox" in detection:
        return float(detection["bbox"][2] * detection["bbox"][3]), detection["bbox"]
    return float(masks.area(detection["segmentation"])), list(masks.box(detection["segmentation"]))
