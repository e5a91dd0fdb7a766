"""COCO's greedy matching of detections with the ground truths of their image and category."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sam3_hyperet.masks import rectangle

IOU_TYPES = ("bbox", "segm")
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_RANGES = {"": (0.0, 1e10), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e10)}  # pixels

_LOW, _HIGH = np.array(list(AREA_RANGES.values())).T
_EVERYWHERE = (-1e5, -1e5, 3e5, 3e5)  # x, y, width, height: boxes reach beyond their image
SETTINGS = (len(IOU_THRESHOLDS), len(AREA_RANGES))  # (T, A)
# COCO takes an IoU of 1 as found at any threshold.
_LEAST_IOU = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None, None]


class Truth(NamedTuple):
    """A ground truth: by IoU type, a COCO box or an RLE; its area in pixels."""

    category_id: int
    shapes: Mapping[str, object]
    area: float
    crowd: bool


def unannotated_rest(category_id: int, height: int, width: int) -> Truth:
    """A crowd all over an image whose annotations of a category are not all: it ignores what none of them meets."""
    shapes = {"bbox": list(_EVERYWHERE), "segm": rectangle((0, 0, width, height), height, width)}
    return Truth(category_id, shapes, height * width, True)


@dataclass(frozen=True)
class Truths:
    """The ground truths of one category in one image: shapes by IoU type, areas (G,) in pixels, crowds (G,) bool."""

    shapes: dict[str, list[object]]
    areas: np.ndarray
    crowds: np.ndarray

    @classmethod
    def by_category(cls, truths: Iterable[Truth]) -> dict[int, Truths]:
        """Those of one image, by category id, in their order."""
        found: dict[int, list[Truth]] = defaultdict(list)
        for truth in truths:
            found[truth.category_id].append(truth)
        return {
            category_id: cls(
                {iou_type: [truth.shapes[iou_type] for truth in chosen] for iou_type in chosen[0].shapes},
                np.array([truth.area for truth in chosen], dtype=np.float64),
                np.array([truth.crowd for truth in chosen], dtype=bool),
            )
            for category_id, chosen in found.items()
        }

    @property
    def ignored(self) -> np.ndarray:
        """(A, G): crowds, and what is not of the size."""
        ignored: np.ndarray = self.crowds | ~of_size(self.areas).T
        return ignored


def of_size(areas: np.ndarray) -> np.ndarray:
    """(N, A) bool: whether areas (N,) in pixels lie in each of `AREA_RANGES`, ends included."""
    lies_in: np.ndarray = (areas[:, None] >= _LOW) & (areas[:, None] <= _HIGH)
    return lies_in


def match(ious: np.ndarray, truths: Truths) -> tuple[np.ndarray, np.ndarray]:
    """COCO's greedy matching at every IoU threshold and size.

    ious: (N, G), detections from the best score down. Returns (matched, ignored): (N, T, A) bool each; whether the
    detection found a ground truth, and whether that one is ignored. A detection takes the free ground truth of the
    largest IoU, the last of equals, and an ignored one only where there is no other; crowds are never used up.
    """
    matched = np.zeros((len(ious), *SETTINGS), dtype=bool)
    ignored = np.zeros_like(matched)
    if not ious.size:
        return matched, ignored
    truth_ignored = truths.ignored
    preferred = ious.shape[1] * ~truth_ignored
    free = np.ones((*SETTINGS, ious.shape[1]), dtype=bool)
    for n in np.flatnonzero(ious.max(axis=1) >= IOU_THRESHOLDS[0]):
        rank = np.empty(ious.shape[1], dtype=int)
        rank[ious[n].argsort(kind="stable")] = np.arange(ious.shape[1])
        choice = np.where(free & (ious[n] >= _LEAST_IOU), rank + preferred, -1)
        best, found = choice.argmax(axis=2), choice.max(axis=2) >= 0
        matched[n] = found
        ignored[n] = found & truth_ignored[np.arange(SETTINGS[1]), best]
        t, a = np.nonzero(found)
        free[t, a, best[t, a]] = truths.crowds[best[t, a]]
    return matched, ignored
