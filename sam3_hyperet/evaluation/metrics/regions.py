"""Detections and annotated regions as run-length encodings: small to keep, and quick to intersect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as coco_mask

from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.masks import encode_masks

Rle = dict[str, Any]


class Category(Protocol):
    """A concept of the data set."""

    @property
    def id(self) -> int: ...
    @property
    def name(self) -> str: ...


class Region(Protocol):
    """An annotated instance, or a class's whole area where instances are not told apart."""

    @property
    def category_id(self) -> int: ...
    @property
    def rle(self) -> Rle: ...
    @property
    def crowd(self) -> bool: ...


class Size(Protocol):
    """Of a picture, in pixels."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...


class Pictures(Protocol):
    """Annotated pictures; `sam3_hyperet.data`'s readers give them."""

    @property
    def categories(self) -> Sequence[Category]: ...
    def image(self, i: int) -> Size: ...
    def instances(self, i: int) -> Sequence[Region]: ...


def confident(answer: PromptPrediction, score: float) -> PromptPrediction:
    """Only the detections whose score, presence included, is at least `score`."""
    return answer.above(score / answer.presence if answer.presence > 0 else float("inf"))


def detection_masks(answer: PromptPrediction, size: Size, threshold: float) -> list[Rle]:
    """The masks of all queries, at the size of the picture."""
    probabilities = answer.mask_probabilities(size.height, size.width)
    return encode_masks((probabilities >= threshold).cpu().numpy())


def semantic_mask(answer: PromptPrediction, size: Size, threshold: float) -> Rle:
    """The semantic map, at the size of the picture."""
    probabilities = answer.semantic_probabilities(size.height, size.width)
    return encode_masks((probabilities >= threshold).cpu().numpy()[None])[0]


def union(masks: Sequence[Rle], size: Size) -> Rle:
    """What any of the masks covers; of none, an empty mask."""
    return coco_mask.merge([*masks, _empty(size)])  # type: ignore[no-any-return]


def intersection_area(a: Rle, b: Rle) -> int:
    """Pixels that both cover."""
    return int(coco_mask.area(coco_mask.merge([a, b], intersect=True)))


def overlaps(masks: Sequence[Rle], regions: Sequence[Rle], crowd: Sequence[bool] | None = None) -> np.ndarray:
    """(masks, regions) IoU; where the region is a crowd, the share of the mask that lies in it."""
    if not masks or not regions:
        return np.zeros((len(masks), len(regions)))
    found: np.ndarray = coco_mask.iou(list(masks), list(regions), list(crowd or [False] * len(regions)))
    return found


def _empty(size: Size) -> Rle:
    pixels = size.height * size.width
    return coco_mask.frPyObjects({"size": [size.height, size.width], "counts": [pixels]}, size.height, size.width)  # type: ignore[no-any-return]
