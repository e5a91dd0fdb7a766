"""Examples for people: detections and label maps on images, and where adaptation helped and harmed most.

The extremes are by the F1 of an image's masks: a detection of score ≥ 1/2 is right where it meets an annotated instance
at IoU ≥ 1/2, each of which counts once. Where nothing is there and nothing is detected, F1 is 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sam3_hyperet.evaluation.compare import Comparison
from sam3_hyperet.evaluation.metric_table import EvalResult
from sam3_hyperet.evaluation.metrics.evaluator import Record
from sam3_hyperet.evaluation.metrics.examples import ExampleEvaluator
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.metrics.semantic.label_map_evaluator import vocabulary_labels
from sam3_hyperet.evaluation.models import BASE
from sam3_hyperet.evaluation.task import INSTANCES
from sam3_hyperet.report.figures.images import IGNORED, Detection, Example, SemanticExample
from sam3_hyperet.report.tables import number

_Records = Sequence[Record]


class Extreme(NamedTuple):
    """An image, by its position in the split, and the id of the category that changed most on it."""

    position: int
    category_id: int
    base: float  # F1 over all instances of the image
    adapted: float
    of_category: tuple[float, float]  # F1 of the base and of the adapted model over those of the category


def examples(comparison: Comparison, extremes: Sequence[Extreme] | None = None) -> list[Example]:
    """Detections of all models: on the task's examples, or at these extremes."""
    if extremes is None:
        chosen = [(*shown, "") for shown in comparison.task.shown]
    else:
        chosen = [(one.position, one.category_id, _caption(one)) for one in extremes]
    images = comparison.task.split.images
    categories = {category.id: category for category in images.categories}
    labels = model_labels(comparison.results)
    pixels = {i: np.asarray(images.load_image(i)) for i in dict.fromkeys(i for i, *_ in chosen)}
    return [
        Example(
            image=pixels[i],
            prompt=categories[category_id].name,
            granularity=categories[category_id].granularity,
            truth=tuple(one.rle for one in images.instances(i) if one.category_id == category_id),
            detections={
                label: _detections(comparison, result, i, category_id)
                for label, result in zip(labels, comparison.results, strict=True)
            },
            caption=caption,
        )
        for i, category_id, caption in chosen
    ]


def _caption(one: Extreme) -> str:
    here = " → ".join(number(f1) for f1 in one.of_category)
    return f"F1 here {here}, of all prompts on the image {number(one.base)} → {number(one.adapted)}"


def semantic_examples(comparison: Comparison) -> list[SemanticExample]:
    """Label maps of all models on the task's examples."""
    labels = comparison.task.split.labels
    if labels is None:
        return []
    names = tuple(category.name for category in labels.categories)
    found = []
    for i in comparison.task.shown_maps:
        maps = [vocabulary_labels(labels, i)]
        maps += [_record(comparison, result, "label_maps", i)["shown"] for result in comparison.results]
        truth, *predicted = (np.where(one < 0, IGNORED, one).astype(np.int64) for one in maps)
        by_model = dict(zip(model_labels(comparison.results), predicted, strict=True))
        found.append(SemanticExample(np.asarray(labels.load_image(i)), truth, by_model, names))
    return found


def model_labels(results: Sequence[EvalResult]) -> list[str]:
    """The models' names in a report: "base", and "adapted" for a lone other one."""
    several = sum(result.model.name != BASE for result in results) > 1
    return [result.model.name if several or result.model.name == BASE else "adapted" for result in results]


def extremes(comparison: Comparison, count: int) -> tuple[list[Extreme], list[Extreme]]:
    """Where the last model gained and where it lost most on the base; none without a base or instances."""
    base, last = _base_and_last(comparison)
    evaluator = last.evaluators.get(INSTANCES)
    if base is None or not isinstance(evaluator, InstanceEvaluator):
        return [], []
    ids, positions = sorted(evaluator.categories), comparison.task.positions
    found = gained_and_lost(base.records_of(INSTANCES), last.records_of(INSTANCES), count)
    gained, lost = (
        [one._replace(position=positions[one.position], category_id=ids[one.category_id]) for one in some]
        for some in found
    )
    return gained, lost


def gained_and_lost(base: _Records, adapted: _Records, count: int) -> tuple[list[Extreme], list[Extreme]]:
    """At most `count` images whose F1 rose, the largest rise first, and as many whose F1 fell.

    base, adapted: records of `InstanceEvaluator`, of the same images in the same order.
    Returns the place among the records as position, and the column of the category as its id.
    """
    counts = _counts(base), _counts(adapted)
    before, after = (_f1(of_model.sum(axis=2)) for of_model in counts)
    of_base, of_adapted = (_f1(of_model) for of_model in counts)
    change, by_category = after - before, of_adapted - of_base
    order = np.argsort(-change, kind="stable").tolist()

    def found(order: list[int], sign: int) -> list[Extreme]:
        chosen = [i for i in order if sign * change[i] > 0][:count]
        columns = [int(np.argmax(sign * by_category[i])) for i in chosen]
        return [
            Extreme(i, c, float(before[i]), float(after[i]), (float(of_base[i, c]), float(of_adapted[i, c])))
            for i, c in zip(chosen, columns, strict=True)
        ]

    return found(order, 1), found(order[::-1], -1)


def _counts(records: _Records) -> np.ndarray:
    """(3, images, categories) instances, confident detections, and right ones; 0 where annotations lack some."""
    counts = [(record["instances"], record["claimed"], record["segm_hits"][:, 0]) for record in records]
    known = ~np.array([record["unknown"] for record in records])
    known_counts: np.ndarray = np.array(counts, float).swapaxes(0, 1) * known
    return known_counts


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
    return tuple(Detection(*one) for one in found)
