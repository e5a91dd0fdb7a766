"""COCO average precision of boxes and masks.

Protocol: pycocotools'. IoU .50:.05:.95, 101 recall points, at most 100 detections per image *and category*,
crowds ignored, small/medium/large at 32² and 96² pixels, -1 where there is nothing to find. `AP@100/img`
first keeps the 100 best detections of each image over all categories, as SAM 3's own evaluation does. The
size of a mask result is its mask's even where it has a `bbox` (pycocotools would take the box's); that of a
box result is its box's, or its mask's where the record has only a mask (so in pycocotools). Three back ends give the
same numbers: the package's own, which is the fastest and has cgF1 too, and two to check it by.
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.instances.coco_summary import check_groups, coco_metrics
from sam3_hyperet.evaluation.metrics.instances.instance_matches import AREA_RANGES, IOU_TYPES, MAX_DETECTIONS
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import instance_metrics
from sam3_hyperet.evaluation.metrics.instances.instance_records import records_of_results, sized_shape
from sam3_hyperet.evaluation.scoring.coco import GroundTruth, Record, check_detections, check_masks, read_json

BACKENDS = ("sam3_hyperet", "faster-coco-eval", "pycocotools")


class CocoAP:
    """Collects detections image by image and gives their AP as a flat dictionary.

    Keys: `segm/AP`, and so on with AP50, AP75, APs, APm, APl, AR@1, AR@10, AR@100, ARs, ARm, ARl, AP@100/img
    and AP/<category>; the same under `bbox/`; `<group>/segm/AP`… for each group of category ids; `images`,
    `annotations`, `crowds`, `detections`. Averages are over the categories that occur; -1 where none does. Our own
    back end adds the cgF1 keys of `instance_metrics`.
    image_ids: the images that are scored, by default all of the file; each has to be processed once. Raises
    ConfigError for options that cannot be, DataError naming the file and record for data that cannot.
    """

    def __init__(
        self,
        ground_truth: GroundTruth | Mapping[str, Any] | str | Path,
        iou_types: Sequence[str] = IOU_TYPES,
        groups: Mapping[str, Collection[int]] | None = None,
        backend: str = BACKENDS[0],
        image_ids: Collection[int] | None = None,
    ) -> None:
        if isinstance(ground_truth, str | Path):
            ground_truth = GroundTruth.read(ground_truth)
        elif not isinstance(ground_truth, GroundTruth):
            ground_truth = GroundTruth.from_dict(ground_truth)
        self.ground_truth = ground_truth
        self.iou_types = tuple(iou_types)
        self.groups = {str(name): list(ids) for name, ids in (groups or {}).items()}
        self.backend = backend
        self.image_ids = sorted(set(ground_truth.sizes if image_ids is None else image_ids))
        if unknown := set(self.iou_types) - set(IOU_TYPES):
            raise ConfigError(f"unknown IoU type {sorted(unknown)}; the types are {', '.join(IOU_TYPES)}")
        if self.backend not in BACKENDS:
            raise ConfigError(f"unknown AP back end {self.backend!r}; the back ends are {', '.join(BACKENDS)}")
        check_groups(self.groups, ground_truth)
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
        if "segm" in self.iou_types:
            check_masks(detections, "detections")
        if self.backend == BACKENDS[0]:
            of_images = records_of_results(self.ground_truth, detections, self.image_ids, self.iou_types)
            return instance_metrics(of_images, self.ground_truth.categories, self.groups)
        best = [r for image_id in self.image_ids for r in _best(self.detections[image_id], MAX_DETECTIONS)]
        wanted = set(self.image_ids)
        annotations = [a for a in self.ground_truth.annotations if a["image_id"] in wanted]
        metrics: dict[str, float] = {
            "images": len(self.image_ids),
            "annotations": len(annotations),
            "crowds": sum(a["iscrowd"] for a in annotations),
            "detections": len(detections),
        }
        for iou_type in self.iou_types:
            precision, recall = self._accumulate(iou_type, detections)
            trimmed = precision if len(best) == len(detections) else self._accumulate(iou_type, best)[0]
            arrays = {"AP@100/img": trimmed[:, :, :, 0, -1].mean(axis=1)}
            for a, size in enumerate(AREA_RANGES):
                arrays[f"AP{size}"] = precision[:, :, :, a, -1].mean(axis=1)
                arrays[f"AR{size or '@100'}"] = recall[:, :, a, -1]
            arrays |= {"AR@1": recall[:, :, 0, 0], "AR@10": recall[:, :, 0, 1]}
            metrics |= coco_metrics(arrays, iou_type, self.ground_truth.categories, self.groups)
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
            check_masks(records, str(predictions))
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
        results = [
            {**_result(record, iou_type), "id": number, "iscrowd": 0} for number, record in enumerate(detections, 1)
        ]
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


def _result(record: Record, iou_type: str) -> Record:
    area, shape = sized_shape(record, iou_type)
    kept = {name: record[name] for name in ("image_id", "category_id", "score")}
    return {**kept, "area": area, "bbox" if iou_type == "bbox" else "segmentation": shape}
