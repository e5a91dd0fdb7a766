"""On which pictures adaptation helped and harmed most, by the F1 of their masks.

A claim is a detection of score ≥ 1/2; it is right where it meets an annotated instance at IoU ≥ 1/2, each of which
counts once. Where nothing is there and nothing is claimed, F1 is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam3_hyperet.evaluation.metrics.evaluator import Record


@dataclass(frozen=True)
class Extreme:
    """A picture, by its place among the records, and the column of the category that changed most on it.

    base, adapted: F1 over all instances of the picture.
    """

    picture: int
    category: int
    base: float
    adapted: float


def gained_and_lost(
    base: Sequence[Record], adapted: Sequence[Record], count: int
) -> tuple[list[Extreme], list[Extreme]]:
    """At most `count` pictures whose F1 rose, the largest rise first, and as many whose F1 fell.

    base, adapted: records of `InstanceEvaluator`, of the same pictures in the same order.
    """
    before, after = _counts(base), _counts(adapted)
    f1 = [_f1(counts.sum(axis=2)) for counts in (before, after)]
    change = f1[1] - f1[0]
    by_category = _f1(after) - _f1(before)
    order = np.argsort(-change, kind="stable")

    def found(chosen: np.ndarray, sign: int) -> list[Extreme]:
        return [
            Extreme(int(i), int(np.argmax(sign * by_category[i])), float(f1[0][i]), float(f1[1][i]))
            for i in chosen[:count]
        ]

    return found(order[change[order] > 0], 1), found(order[::-1][change[order[::-1]] < 0], -1)


def _counts(records: Sequence[Record]) -> np.ndarray:
    """(3, pictures, categories) instances, claims, and claims that are right."""
    return np.stack(
        [
            np.stack([record["instances"] for record in records]),
            np.stack([record["claimed"] for record in records]),
            np.stack([record["segm_hits"][:, 0] for record in records]),
        ]
    ).astype(float)


def _f1(counts: np.ndarray) -> np.ndarray:
    there, claimed, right = counts
    f1: np.ndarray = np.where(there + claimed > 0, 2 * right / np.maximum(there + claimed, 1), 1.0)
    return f1
