"""COCO annotation and result files as checked records; what would silently change a number is an error."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.metrics.instances.instance_matches import Truth
from sam3_hyperet.masks import MAX_SIDE, from_polygons, from_run_lengths, invalid_rles, spread_beyond
from sam3_hyperet.reading import read_json

Record = dict[str, Any]
_LVIS_KEYS = ("neg_category_ids", "not_exhaustive_category_ids")
_CHUNK = 512  # RLEs checked at once: what fits the cache is three times as fast


@dataclass(frozen=True)
class GroundTruth:
    """The annotations of a COCO instances file, as the AP code counts them.

    sizes: image id → (height, width) in pixels; categories: id → name; annotations: in file order, with ids renumbered
    from 1 (COCO's matching reads id 0 as "unmatched"). absent, partly: of images with LVIS's keys, the categories of
    `neg_category_ids` and of `not_exhaustive_category_ids`. Raises DataError naming the file and the record.
    """

    source: str
    sizes: dict[int, tuple[int, int]]
    categories: dict[int, str]
    annotations: list[Record]
    absent: dict[int, frozenset[int]] = field(default_factory=dict)
    partly: dict[int, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> GroundTruth:
        return cls.from_dict(read_json(path), str(path))

    @classmethod
    def from_dict(cls, content: Any, source: str = "ground truth") -> GroundTruth:
        if not isinstance(content, Mapping):
            raise DataError(f"{source}: expected a COCO object, found a {type(content).__name__}")
        for key in ("images", "annotations", "categories"):
            if not isinstance(content.get(key), list):
                raise DataError(f"{source}: no list {key!r}; a COCO instances file has images, annotations, categories")
        sizes = {}
        for where, image in _unique(content["images"], f"{source}: images"):
            for key in ("height", "width"):
                if not _integer(image.get(key)) or not 0 < image[key] <= MAX_SIDE:
                    raise DataError(f"{where}: {key} is {image.get(key)!r:.60}, expected 1 to {MAX_SIDE} pixels")
            sizes[image["id"]] = (image["height"], image["width"])
        categories: dict[int, str] = {}
        for where, category in _unique(content["categories"], f"{source}: categories"):
            name = category.get("name")
            if not isinstance(name, str) or not name or name in categories.values():
                raise DataError(f"{where}: name is {name!r:.60}, expected a text that no other category has")
            categories[category["id"]] = name
        absent, partly = _federated(content["images"], categories, source)
        annotations: list[Record] = []
        for where, record in _unique(content["annotations"], f"{source}: annotations"):
            _known(record, "image_id", sizes, where)
            _known(record, "category_id", categories, where)
            area, crowd = record.get("area"), record.get("iscrowd", 0)
            if not _finite(area) or area < 0:
                raise DataError(f"{where}: area is {area!r:.60}, expected pixels ≥ 0")
            if crowd not in (0, 1):
                raise DataError(f"{where}: iscrowd is {crowd!r:.60}, expected 0 or 1")
            kept = {key: record[key] for key in ("image_id", "category_id", "bbox", "segmentation") if key in record}
            annotations.append({**kept, "id": len(annotations) + 1, "area": area, "iscrowd": crowd, "where": where})
        return cls(source, sizes, categories, annotations, absent, partly)

    def unlabelled(self, image_id: int) -> frozenset[int]:
        """The categories of which an image says nothing: with LVIS's keys, those neither annotated nor listed."""
        if image_id not in self.absent:
            return frozenset()
        shown = {self.annotations[n]["category_id"] for n in self.by_image[image_id]}
        return frozenset(self.categories) - shown - self.absent[image_id]

    def not_exhaustive(self, image_id: int) -> frozenset[int]:
        """The categories of which an image may show more than is annotated."""
        return self.partly.get(image_id, frozenset()) - self.unlabelled(image_id)

    def truths(self, image_id: int, iou_types: Sequence[str]) -> list[Truth]:
        """The annotations of an image, in file order. Raises DataError for one without what is to be scored."""
        shapes = {name: self.boxes if name == "bbox" else self.masks for name in iou_types}
        found = []
        for n in self.by_image.get(image_id, ()):
            one, of_one = self.annotations[n], {name: every[n] for name, every in shapes.items()}
            found.append(Truth(one["category_id"], of_one, one["area"], one["iscrowd"] == 1))
        return found

    @cached_property
    def by_image(self) -> dict[int, list[int]]:
        """The positions in `annotations` of each image's, in file order."""
        numbers: dict[int, list[int]] = {image_id: [] for image_id in self.sizes}
        for number, record in enumerate(self.annotations):
            numbers[record["image_id"]].append(number)
        return numbers

    @cached_property
    def boxes(self) -> list[Sequence[float]]:
        """[x, y, width, height] of every annotation."""
        return [_box(record, record["where"]) for record in self.annotations]

    @cached_property
    def masks(self) -> list[Record]:
        """The compressed RLE of every annotation."""
        masks = []
        for record in self.annotations:
            shape, where, height_width = record.get("segmentation"), record["where"], self.sizes[record["image_id"]]
            if isinstance(shape, list) and shape:
                for polygon in shape:
                    is_polygon = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
                    if not is_polygon or not _all_finite(polygon):
                        raise DataError(f"{where}: a polygon needs three or more points [x1, y1, x2, y2, …]")
                _check_spread(shape, height_width, where)
                masks.append(from_polygons(shape, *height_width))
            else:
                masks.append(_rle(record, height_width, where))
        _check_runs(masks, [record["where"] for record in self.annotations])
        return masks


def check_detections(records: Any, ground_truth: GroundTruth, source: str) -> list[Record]:
    """COCO result records with a bbox, an RLE or both, checked and copied, RLEs compressed. Raises DataError."""
    if not isinstance(records, Sequence) or isinstance(records, str | bytes):
        raise DataError(f"{source}: expected a list of detections, found a {type(records).__name__}")
    checked, masks, mask_places = [], [], []
    for number, record in enumerate(records):
        where = f"{source}: record {number}"
        if not isinstance(record, Mapping):
            raise DataError(f"{where}: expected an object, found {record!r:.80}")
        _known(record, "image_id", ground_truth.sizes, where)
        _known(record, "category_id", ground_truth.categories, where)
        score = record.get("score")
        if not _finite(score):
            raise DataError(f"{where}: score is {score!r:.60}, expected a finite number")
        detection = {"image_id": record["image_id"], "category_id": record["category_id"], "score": float(score)}
        if record.get("bbox"):
            detection["bbox"] = _box(record, where)
        if "segmentation" in record:
            detection["segmentation"] = _rle(record, ground_truth.sizes[record["image_id"]], where)
            masks.append(detection["segmentation"])
            mask_places.append(where)
        if "bbox" not in detection and "segmentation" not in detection:
            raise DataError(f"{where}: neither segmentation nor bbox")
        checked.append(detection)
    _check_runs(masks, mask_places)
    return checked


def check_masks(detections: Sequence[Record], source: str) -> None:
    """Raise a DataError naming the first detection that has no mask."""
    for number, record in enumerate(detections):
        if "segmentation" not in record:
            raise DataError(f"{source}: record {number}: no segmentation, but masks are to be scored")


def _check_spread(polygons: Sequence[Sequence[float]], height_width: tuple[int, int], where: str) -> None:
    """Raise a DataError for polygons that reach over the border by a whole image."""
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    extent, size = np.concatenate([points.min(axis=0), points.max(axis=0)]), np.array(height_width[::-1])
    if (spread_beyond(extent[None], size[None]) > size).any():
        spans = [float(f"{value:.6g}") for value in extent]
        raise DataError(f"{where}: a polygon spans {spans}, the image is {height_width[1]}x{height_width[0]}")


def _federated(
    images: Sequence[Mapping[str, Any]], categories: Mapping[int, str], source: str
) -> tuple[dict[int, frozenset[int]], ...]:
    """The ids of each of LVIS's keys by image, of the images that have one of them; an image with one has both."""
    found: tuple[dict[int, frozenset[int]], ...] = ({}, {})
    for number, image in enumerate(images):
        if not any(key in image for key in _LVIS_KEYS):
            continue
        for key, by_image in zip(_LVIS_KEYS, found, strict=True):
            ids = image.get(key, [])
            if not isinstance(ids, list) or not all(_integer(one) and one in categories for one in ids):
                where = f"{source}: images[{number}] (id {image['id']})"
                raise DataError(f"{where}: {key} is {ids!r:.60}, expected a list of category ids")
            by_image[image["id"]] = frozenset(ids)
    return found


def _unique(records: list[Any], where: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    seen: set[int] = set()
    for number, record in enumerate(records):
        identity = record.get("id") if isinstance(record, Mapping) else None
        if not _integer(identity):
            raise DataError(f"{where}[{number}]: id is {identity!r:.60}, expected an integer")
        if identity in seen:
            raise DataError(f"{where}[{number}]: id {identity!r:.60} occurs twice")
        seen.add(identity)
        yield f"{where}[{number}] (id {identity})", record


def _known(record: Mapping[str, Any], key: str, ids: Mapping[int, Any], where: str) -> None:
    value = record.get(key)
    if not _integer(value):
        raise DataError(f"{where}: {key} is {value!r:.60}, expected an integer")
    if value not in ids:
        raise DataError(f"{where}: {key} {value!r:.60} is not in the ground truth ({len(ids)} known)")


def _box(record: Mapping[str, Any], where: str) -> Sequence[float]:
    box = record.get("bbox")
    if not isinstance(box, Sequence) or len(box) != 4 or not _all_finite(box) or box[2] < 0 or box[3] < 0:
        raise DataError(f"{where}: bbox is {box!r:.80}, expected [x, y, width, height]")
    if not _all_finite((box[0] + box[2], box[1] + box[3], box[2] * box[3])):
        raise DataError(f"{where}: bbox is {box!r:.80}, too large for its area to be a number")
    return box


def _rle(record: Mapping[str, Any], height_width: tuple[int, int], where: str) -> Record:
    shape = record.get("segmentation")
    if not isinstance(shape, Mapping) or not {"size", "counts"} <= shape.keys():
        raise DataError(f"{where}: segmentation is {shape!r:.60}, expected an RLE {{size, counts}}")
    counts = shape["counts"]
    if shape["size"] != list(height_width) and shape["size"] != height_width:
        raise DataError(
            f"{where}: RLE of size {shape['size']!r:.60}, the image is {list(height_width)} (height, width)"
        )
    if isinstance(counts, list):
        return from_run_lengths({"size": [*height_width], "counts": counts}, *height_width, where)
    if isinstance(counts, str) and counts.isascii():
        counts = counts.encode()
    if not isinstance(counts, bytes):
        raise DataError(f"{where}: RLE counts are {counts!r:.60}, expected COCO's compressed text or a list of runs")
    return {"size": list(height_width), "counts": counts}


def _check_runs(masks: list[Record], places: list[str]) -> None:
    for start in range(0, len(masks), _CHUNK):
        part = masks[start : start + _CHUNK]
        bad = invalid_rles([m["counts"] for m in part], [math.prod(m["size"]) for m in part])
        if bad.any():
            first = start + int(bad.argmax())
            height, width = masks[first]["size"]
            raise DataError(f"{places[first]}: broken RLE: its runs do not add up to {height} x {width} pixels")


def _integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _all_finite(values: Sequence[Any]) -> bool:
    return all(map(_finite, values))
