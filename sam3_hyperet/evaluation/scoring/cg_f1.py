"""cgF1 of results on SA-Co's files, where what COCO calls an image is a pair of an image and a noun phrase."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.instances.cg_f1 import cg_f1_metrics, local_f1, pair_sums
from sam3_hyperet.evaluation.metrics.instances.instance_matches import IOU_TYPES
from sam3_hyperet.evaluation.scoring.coco import GroundTruth, check_detections, check_masks
from sam3_hyperet.evaluation.scoring.coco_ap import records_of_results
from sam3_hyperet.reading import read_json

_EXHAUSTIVE = "is_instance_exhaustive"


def cg_f1_of_files(
    ground_truths: Sequence[str | Path], predictions: str | Path, iou_type: str = "segm"
) -> dict[str, float]:
    """All of `cg_f1_metrics`, and the numbers of `pairs`, of `left_out` ones, of `instances` and of `claims` in pairs.

    With several ground truths, of as many annotators, the one counts for a pair that the results fit best: by the mean
    F1 over IoU thresholds, the first of equals. Pairs that the first file has not, or that some file says are not
    annotated exhaustively, are left out. Categories do not count. Raises ConfigError or DataError.
    """
    if not ground_truths or iou_type not in IOU_TYPES:
        raise ConfigError(f"cgF1 of {len(ground_truths)} ground truths by {iou_type!r}; the types are bbox, segm")
    contents = [(read_json(path), str(path)) for path in ground_truths]
    truths = [GroundTruth.from_dict(content, source) for content, source in contents]
    partial = {i for content, source in contents for i in _not_exhaustive(content, source)}
    pairs = sorted(truths[0].sizes.keys() - partial)
    for truth in truths:
        if missing := set(pairs) - truth.sizes.keys():
            raise DataError(f"{truth.source}: no image {min(missing)}, which {truths[0].source} has")
    if not pairs:
        raise DataError(f"{truths[0].source}: none of its {len(truths[0].sizes)} images is annotated exhaustively")
    content, evaluated = read_json(predictions), set(pairs)
    fits = []
    for truth in truths:
        detections = check_detections(content, truth, str(predictions))
        if iou_type == "segm":
            check_masks(detections, str(predictions))
        detections.sort(key=lambda detection: detection["category_id"])  # so that ties are broken as SAM 3 does
        detections = [{**found, "category_id": 0} for found in detections if found["image_id"] in evaluated]
        records = records_of_results(_of_one_category(truth), detections, pairs, (iou_type,))
        names = ("instances", "claimed", f"{iou_type}_hits")
        fits.append([np.concatenate([record[name] for record in records]) for name in names])
    instances, claimed, hits = (np.stack(arrays) for arrays in zip(*fits, strict=True))
    fit = np.where((instances == 0) & (claimed == 0), np.inf, local_f1(instances, claimed, hits).mean(axis=-1))
    best = fit.argmax(axis=0), np.arange(len(pairs))
    instances, claimed, hits = instances[best], claimed[best], hits[best]
    counts = {"pairs": len(pairs), "left_out": len(truths[0].sizes) - len(pairs)}
    counts |= {"instances": int(instances.sum()), "claims": int(claimed.sum())}
    return counts | cg_f1_metrics(pair_sums(instances, claimed, hits))


def _not_exhaustive(content: Mapping[str, Any], source: str) -> list[int]:
    for number, image in enumerate(content["images"]):
        if not isinstance(image.get(_EXHAUSTIVE), bool | int):
            raise DataError(f"{source}: images[{number}]: {_EXHAUSTIVE} is {image.get(_EXHAUSTIVE)!r}, expected a bool")
    return [image["id"] for image in content["images"] if not image[_EXHAUSTIVE]]


def _of_one_category(truth: GroundTruth) -> GroundTruth:
    annotations = sorted(truth.annotations, key=lambda annotation: annotation["category_id"])
    annotations = [{**annotation, "category_id": 0} for annotation in annotations]
    return replace(truth, categories={0: "object"}, annotations=annotations, absent={}, partly={})
