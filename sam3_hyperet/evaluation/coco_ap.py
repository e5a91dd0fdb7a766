"""COCO average precision of boxes and masks.

Protocol: pycocotools'. IoU .50:.05:.95, 101 recall points, at most 100 detections per image *and category*,
crowds ignored, small/medium/large at 32² and 96² pixels, -1 where there is nothing to find. `AP@100/img`
first keeps the 100 best detections of each image over all categories, as SAM 3's own evaluation does. The
size of a mask result is its mask's even where it has a `bbox` (pycocotools would take the box's); that of a
box result is its box's, or its mask's where the record has only a mask (so in pycocotools).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle_ops

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.coco_records import GroundTruth, Record, check_detections, read_json

BACKENDS = ("faster-coco-eval", "pycocotools")
IOU_TYPES = ("bbox", "segm")
DETECTIONS_PER_IMAGE = 100

_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}
_MAX_DETECTIONS = {1: 0, 10: 1, 100: 2}


def default_backend() -> str:
    """`faster-coco-eval` where it is installed, else `pycocotools`, the reference."""
    return BACKENDS[0] if importlib.util.find_spec("faster_coco_eval") else BACKENDS[1]


class CocoAP:
    """Collects detections image by image and gives their AP as a flat dictionary.

    Keys: `segm/AP`, and so on with AP50, AP75, APs, APm, APl, AR@1, AR@10, AR@100, ARs, ARm, ARl, AP@100/img
    and AP/<category>; the same under `bbox/`; `<group>/segm/AP`… for each group of category ids; `images`,
    `annotations`, `crowds`, `detections`. Averages are over the categories that occur; -1 where none does.
    image_ids: the images that are scored, by default all of the file; each has to be processed once. Raises
    ConfigError for options that cannot be, DataError naming the file and record for data that cannot.
    """

    def __init__(
        self,
        ground_truth: GroundTruth | Mapping[str, Any] | str | Path,
        iou_types: Sequence[str] = IOU_TYPES,
        groups: Mapping[str, Collection[int]] | None = None,
        backend: str | None = None,
        image_ids: Collection[int] | None = None,
    ) -> None:
        if isinstance(ground_truth, str | Path):
            ground_truth = GroundTruth.read(ground_truth)
        elif not isinstance(ground_truth, GroundTruth):
            ground_truth = GroundTruth.from_dict(ground_truth)
        self.ground_truth = ground_truth
        self.iou_types = tuple(iou_types)
        self.groups = {str(name): list(ids) for name, ids in (groups or {}).items()}
        self.backend = backend or default_backend()
        self.image_ids = sorted(set(ground_truth.sizes if image_ids is None else image_ids))
        if unknown := set(self.iou_types) - set(IOU_TYPES):
            raise ConfigError(f"unknown IoU type {sorted(unknown)}; the types are {', '.join(IOU_TYPES)}")
        if self.backend not in BACKENDS:
            raise ConfigError(f"unknown AP back end {self.backend!r}; the back ends are {', '.join(BACKENDS)}")
        for name, ids in self.groups.items():
            if not ids or any(i not in list(ground_truth.categories) for i in ids):
                raise ConfigError(f"group {name!r}: {ids} are not category ids of {ground_truth.source}")
        if not self.image_ids or not set(self.image_ids) <= ground_truth.sizes.keys():
            raise DataError(f"{ground_truth.source}: no images to score, or ids that it does not have")
        self.reset()

    def reset(self) -> None:
        self.detections: dict[int, list[Record]] = {}

    def process(self, image_id: int, detections: Sequence[Mapping[str, Any]]) -> None:
        """Add one image's detections: COCO result records, `image_id` filled in."""
        records = [{**record, "image_id": image_id} for record in detections]
        self._add(image_id, check_detections(records, self.ground_truth, f"detections of image {image_id}"))

    def merge(self, other: CocoAP) -> None:
        """Take over the images that another process has seen; an image seen by both is an error."""
        for image_id, records in other.detections.items():
            self._add(image_id, records)

    def evaluate(self) -> dict[str, float]:
        """The metrics; raises DataError where images are left out."""
        if missing := set(self.image_ids) - self.detections.keys():
            raise DataError(
                f"{len(missing)} of {len(self.image_ids)} images were not processed, e.g. id {min(missing)}"
            )
        detections = [record for image_id in self.image_ids for record in self.detections[image_id]]
        best = [r for image_id in self.image_ids for r in _best(self.detections[image_id], DETECTIONS_PER_IMAGE)]
        wanted = set(self.image_ids)
        annotations = [a for a in self.ground_truth.annotations if a["image_id"] in wanted]
        metrics: dict[str, float] = {
            "images": len(self.image_ids),
            "annotations": len(annotations),
            "crowds": sum(a["iscrowd"] for a in annotations),
            "detections": len(detections),
        }
        names = [self.ground_truth.categories[i] for i in sorted(self.ground_truth.categories)]
        columns = {category_id: k for k, category_id in enumerate(sorted(self.ground_truth.categories))}
        for iou_type in self.iou_types:
            precision, recall = self._accumulate(iou_type, detections)
            trimmed = precision if len(best) == len(detections) else self._accumulate(iou_type, best)[0]
            for group, ids in {"": list(columns), **self.groups}.items():
                prefix = f"{group}/{iou_type}" if group else iou_type
                k = [columns[category_id] for category_id in ids]
                metrics |= {f"{prefix}/{key}": v for key, v in _summary(precision[:, :, k], recall[:, k]).items()}
                metrics[f"{prefix}/AP@{DETECTIONS_PER_IMAGE}/img"] = _mean(trimmed[:, :, k, 0, -1])
            metrics |= {f"{iou_type}/AP/{name}": _mean(precision[:, :, k, 0, -1]) for k, name in enumerate(names)}
        return metrics

    @classmethod
    def evaluate_files(cls, ground_truth: str | Path, predictions: str | Path, **options: Any) -> dict[str, float]:
        """Score a COCO results file against all images of an instances file; options as for the class.

        Without `iou_types`: boxes and masks where the results have masks, else boxes. A record without `bbox`
        has its mask's.
        """
        truth = GroundTruth.read(ground_truth)
        records = check_detections(read_json(predictions), truth, str(predictions))
        if "iou_types" not in options:
            has_masks = not records or any("segmentation" in record for record in records)
            options["iou_types"] = IOU_TYPES if has_masks else ("bbox",)
        if "segm" in options["iou_types"]:
            for number, record in enumerate(records):
                if "segmentation" not in record:
                    raise DataError(f"{predictions}: record {number}: no segmentation, but masks are to be scored")
        evaluator = cls(truth, **options)
        by_image = defaultdict(list)
        for record in records:
            by_image[record["image_id"]].append(record)
        for image_id in evaluator.image_ids:
            evaluator._add(image_id, by_image[image_id])
        return evaluator.evaluate()

    def _add(self, image_id: int, records: list[Record]) -> None:
        if image_id not in self.ground_truth.sizes:
            raise DataError(f"image id {image_id} is not in {self.ground_truth.source}")
        if image_id in self.detections:
            raise DataError(f"image id {image_id} was processed twice")
        self.detections[image_id] = records

    def _accumulate(self, iou_type: str, detections: list[Record]) -> tuple[np.ndarray, np.ndarray]:
        """precision (T, R, K, A, M), recall (T, K, A, M): IoU, recall point, category, size, detections."""
        truth, wanted = self.ground_truth, set(self.image_ids)
        shapes = truth.boxes if iou_type == "bbox" else truth.masks
        key = "bbox" if iou_type == "bbox" else "segmentation"
        annotations = [
            {
                **{k: a[k] for k in ("id", "image_id", "category_id", "area", "iscrowd")},
                "bbox": [],
                key: shape,
            }
            for a, shape in zip(truth.annotations, shapes, strict=True)
            if a["image_id"] in wanted
        ]
        results = _box_results(detections) if iou_type == "bbox" else _mask_results(detections)
        dataset = {
            "images": [{"id": i, "height": truth.sizes[i][0], "width": truth.sizes[i][1]} for i in self.image_ids],
            "categories": [{"id": i, "name": name} for i, name in truth.categories.items()],
        }
        index, evaluation = _load_backend(self.backend)
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


def _load_backend(name: str) -> tuple[Callable[[], Any], Callable[..., Any]]:
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    return FasterCOCO, COCOeval_faster


def _best(records: list[Record], count: int) -> list[Record]:
    return sorted(records, key=lambda record: -record["score"])[:count]  # stable: ties in the order of the file


def _mask_results(detections: list[Record]) -> list[Record]:
    for number, record in enumerate(detections):
        if "segmentation" not in record:
            raise DataError(f"detection {number} (image {record['image_id']}): no segmentation, but masks are scored")
    masks = [record["segmentation"] for record in detections]
    areas = [rle_ops.area(mask) for mask in masks]  # one by one: a list of more than 255 overflows in pycocotools
    return [
        _result(n, d, area, segmentation=m) for n, (d, m, area) in enumerate(zip(detections, masks, areas, strict=True))
    ]


def _box_results(detections: list[Record]) -> list[Record]:
    results = []
    for number, record in enumerate(detections):
        if "bbox" in record:
            box, area = record["bbox"], record["bbox"][2] * record["bbox"][3]
        else:
            box, area = rle_ops.toBbox(record["segmentation"]).tolist(), rle_ops.area(record["segmentation"])
        results.append(_result(number, record, area, bbox=box))
    return results


def _result(number: int, detection: Record, area: float, **shape: Any) -> Record:
    kept = {key: detection[key] for key in ("image_id", "category_id", "score")}
    return {**kept, "id": number + 1, "iscrowd": 0, "area": float(area), **shape}


def _mean(values: np.ndarray) -> float:
    """The mean where there is something to find, else -1 (pycocotools' convention)."""
    counted = values[values > -1]
    return float(counted.mean()) if counted.size else -1.0


def _summary(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """COCO's twelve numbers."""
    summary = {f"AP{size}": _mean(precision[..., a, -1]) for size, a in _AREAS.items()}
    summary |= {"AP50": _mean(precision[0, ..., 0, -1]), "AP75": _mean(precision[5, ..., 0, -1])}
    summary |= {f"AR@{count}": _mean(recall[..., 0, m]) for count, m in _MAX_DETECTIONS.items()}
    return summary | {f"AR{size}": _mean(recall[..., a, -1]) for size, a in _AREAS.items() if size}
