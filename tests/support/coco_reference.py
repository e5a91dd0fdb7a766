"""COCO's AP by pycocotools and by faster-coco-eval: references that the package's own AP is held against."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from sam3_hyperet.evaluation.metrics.instances.instance_matches import AREA_RANGES, IOU_TYPES
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import coco_metrics
from sam3_hyperet.evaluation.protocol import MAX_DETECTIONS
from sam3_hyperet.evaluation.scoring.coco import GroundTruth, Record, check_detections
from sam3_hyperet.evaluation.scoring.coco_ap import sized_shape

BACKENDS = ("faster-coco-eval", "pycocotools")


def reference_metrics(
    truth: GroundTruth,
    detections: Sequence[Mapping[str, Any]],
    backend: str = "pycocotools",
    groups: Mapping[str, Collection[int]] | None = None,
    iou_types: Sequence[str] = IOU_TYPES,
) -> dict[str, float]:
    """The keys of `score_detections` but cgF1's, of COCO result records."""
    checked = by_image(truth, detections)
    best = [
        record
        for image_id in sorted(truth.sizes)
        for record in sorted(
            (one for one in checked if one["image_id"] == image_id), key=lambda one: -float(one["score"])
        )[:MAX_DETECTIONS]
    ]
    metrics: dict[str, float] = {
        "images": len(truth.sizes),
        "annotations": len(truth.annotations),
        "crowds": sum(a["iscrowd"] for a in truth.annotations),
        "detections": len(checked),
    }
    for iou_type in iou_types:
        precision, recall = accumulate(truth, checked, iou_type, backend)
        trimmed = precision if len(best) == len(checked) else accumulate(truth, best, iou_type, backend)[0]
        arrays = {"AP@100/img": trimmed[:, :, :, 0, -1].mean(axis=1)}
        for a, size in enumerate(AREA_RANGES):
            arrays[f"AP{size}"] = precision[:, :, :, a, -1].mean(axis=1)
            arrays[f"AR{size or '@100'}"] = recall[:, :, a, -1]
        arrays |= {"AR@1": recall[:, :, 0, 0], "AR@10": recall[:, :, 0, 1]}
        metrics |= coco_metrics(arrays, iou_type, truth.categories, groups or {})
    return metrics


def by_image(truth: GroundTruth, detections: Sequence[Mapping[str, Any]]) -> list[Record]:
    """Checked records in the order of the image ids, as the references break ties."""
    checked = check_detections(list(detections), truth, "detections")
    return sorted(checked, key=lambda record: int(record["image_id"]))


def accumulate(
    truth: GroundTruth, detections: Sequence[Record], iou_type: str, backend: str = "pycocotools"
) -> tuple[np.ndarray, np.ndarray]:
    """precision (T, R, K, A, M), recall (T, K, A, M): IoU, recall point, category, size, detections."""
    image_ids = sorted(truth.sizes)
    shapes = truth.boxes if iou_type == "bbox" else truth.masks
    key = "bbox" if iou_type == "bbox" else "segmentation"
    annotations = [
        {**{k: a[k] for k in ("id", "image_id", "category_id", "area", "iscrowd")}, "bbox": [], key: shape}
        for a, shape in zip(truth.annotations, shapes, strict=True)
    ]
    results = [{**_result(record, iou_type), "id": number, "iscrowd": 0} for number, record in enumerate(detections, 1)]
    dataset = {
        "images": [{"id": i, "height": truth.sizes[i][0], "width": truth.sizes[i][1]} for i in image_ids],
        "categories": [{"id": i, "name": name} for i, name in truth.categories.items()],
    }
    index, evaluation = _load(backend)
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for records in (annotations, results):
            side = index()
            side.dataset = {**dataset, "annotations": records}
            side.createIndex()
            sides.append(side)
        run = evaluation(*sides, iou_type)
        run.evaluate()
        run.accumulate()
    return np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])


def _load(name: str) -> tuple[Callable[[], Any], Callable[..., Any]]:
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    return FasterCOCO, COCOeval_faster


def _result(record: Record, iou_type: str) -> Record:
    area, shape = sized_shape(record, iou_type)
    kept = {name: record[name] for name in ("image_id", "category_id", "score")}
    return {**kept, "area": area, "bbox" if iou_type == "bbox" else "segmentation": shape}
