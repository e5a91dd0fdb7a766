"""Examples for people: detections and label maps on images, and where adaptation helped and harmed most.

The extremes are by the F1 of an image's masks: a detection of score ≥ 1/2 is right where it meets an annotated instance
at IoU ≥ 1/2, each of which counts once. Where nothing is there and nothing is detected, F1 is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sam3_hyperet.evaluation.compare import Comparison, EvalResult
from sam3_hyperet.evaluation.metrics.evaluator import Record
from sam3_hyperet.evaluation.metrics.examples import ExampleEvaluator
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.metrics.semantic.label_map_evaluator import vocabulary_labels
from sam3_hyperet.evaluation.task import INSTANCES
from sam3_hyperet.masks import decode
from sam3_hyperet.report.figures.images import IGNORED, Detection, Example, SemanticExample
from sam3_hyperet.report.tables import number


@dataclass(frozen=True)
class Extreme:
    """An image, by its position in the split, and the id of the category that changed most on it.

    base, adapted: F1 over all instances of the image.
    """

    position: int
    category_id: int
    base: float
    adapted: float


def examples(comparison: Comparison, extremes: Sequence[Extreme] | None = None) -> list[Example]:
    """Detections of the base and of the last model: on the task's examples, or at these extremes."""
    if extremes is None:
        chosen = [(position, category_id, "") for position, category_id in comparison.task.shown]
    else:
        chosen = [
            (one.position, one.category_id, f"F1 of the image {number(one.base)} → {number(one.adapted)}")
            for one in extremes
        ]
    images = comparison.task.split.images
    categories = {category.id: category for category in images.categories}
    base, last = _base_and_last(comparison)
    return [
        Example(
            image=np.asarray(images.load_image(i)),
            prompt=categories[category_id].name,
            granularity=categories[category_id].granularity,
            truth=tuple(decode(one.rle).astype(bool) for one in images.instances(i) if one.category_id == category_id),
            base=_detections(comparison, base, i, category_id) if base else (),
            adapted=_detections(comparison, last, i, category_id),
            caption=caption,
        )
        for i, category_id, caption in chosen
    ]


def semantic_examples(comparison: Comparison) -> list[SemanticExample]:
    """Label maps of the base and of the last model on the task's examples."""
    labels = comparison.task.split.labels
    if labels is None:
        return []
    names = tuple(category.name for category in labels.categories)
    base, last = _base_and_last(comparison)
    return [
        SemanticExample(
            np.asarray(labels.load_image(i)),
            _drawable(vocabulary_labels(labels, i)),
            _drawable(_record(comparison, base or last, "label_maps", i)["shown"]),
            _drawable(_record(comparison, last, "label_maps", i)["shown"]),
            names,
        )
        for i in comparison.task.shown_maps
    ]


def extremes(comparison: Comparison, count: int) -> tuple[list[Extreme], list[Extreme]]:
    """Where the last model gained and where it lost most on the base, as `gained_and_lost`.

    None without a base or without instances.
    """
    base, last = _base_and_last(comparison)
    evaluator = last.evaluators.get(INSTANCES)
    if base is None or not isinstance(evaluator, InstanceEvaluator):
        return [], []
    ids, positions = sorted(evaluator.categories), comparison.task.positions
    gained, lost = gained_and_lost(base.records_of(INSTANCES), last.records_of(INSTANCES), count)

    def named(found: list[Extreme]) -> list[Extreme]:
        return [replace(one, position=positions[one.position], category_id=ids[one.category_id]) for one in found]

    return named(gained), named(lost)


def gained_and_lost(
    base: Sequence[Record], adapted: Sequence[Record], count: int
) -> tuple[list[Extreme], list[Extreme]]:
    """At most `count` images whose F1 rose, the largest rise first, and as many whose F1 fell.

    Args:
        base, adapted: records of `InstanceEvaluator`, of the same images in the same order.

    Returns:
        With the place among the records as position, and the column of the category as its id.
    """
    before, after = _counts(base), _counts(adapted)
    f1 = [_f1(counts.sum(axis=2)) for counts in (before, after)]
    change, by_category = f1[1] - f1[0], _f1(after) - _f1(before)
    order = np.argsort(-change, kind="stable")

    def found(chosen: np.ndarray, sign: int) -> list[Extreme]:
        return [
            Extreme(i, int(np.argmax(sign * by_category[i])), float(f1[0][i]), float(f1[1][i]))
            for i in chosen[:count].tolist()
        ]

    return found(order[change[order] > 0], 1), found(order[::-1][change[order[::-1]] < 0], -1)


def _counts(records: Sequence[Record]) -> np.ndarray:
    """(3, images, categories) instances, confident detections, and right ones."""
    return np.stack(
        [
            np.stack([record["instances"] for record in records]),
            np.stack([record["claimed"] for record in records]),
            np.stack([record["segm_hits"][:, 0] for record in records]),
        ]
    ).astype(float)


def _f1(counts: np.ndarray) -> np.ndarray:
    there, found, right = counts
    f1: np.ndarray = np.where(there + found > 0, 2 * right / np.maximum(there + found, 1), 1.0)
    return f1


def _base_and_last(comparison: Comparison) -> tuple[EvalResult | None, EvalResult]:
    return comparison.results[0] if len(comparison.results) > 1 else None, comparison.results[-1]


def _record(comparison: Comparison, result: EvalResult, evaluator: str, position: int) -> Record:
    return result.records_of(evaluator)[comparison.task.positions.index(position)]


def _detections(comparison: Comparison, result: EvalResult, i: int, category_id: int) -> tuple[Detection, ...]:
    evaluator = result.evaluators["examples"]
    assert isinstance(evaluator, ExampleEvaluator)
    found = evaluator.detections(i, category_id, _record(comparison, result, "examples", i))
    return tuple(Detection(decode(rle).astype(bool), score) for rle, score in found)


def _drawable(labels: np.ndarray) -> np.ndarray:
    return np.where(labels < 0, IGNORED, labels).astype(np.int64)
