"""The evidence behind a comparison's metrics, from the records of its pictures: curves, confusion, extremes, radii."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sam3_hyperet.evaluation.comparison import BASE, INSTANCES, Comparison, Outcome
from sam3_hyperet.evaluation.metrics.hierarchy import GranularityEvaluator
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import group_columns
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import precision_recall as precision_by_category
from sam3_hyperet.evaluation.metrics.uncertainty import Detections
from sam3_hyperet.evaluation.runner import records_of
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.report.extremes import Extreme, gained_and_lost
from sam3_hyperet.report.figures.radius_maps import RadiusMap, watch_radii
from sam3_hyperet.report.report import PrecisionRecall, RiskCoverage, TreeConfusion

_IOUS = {0.5: 0, 0.75: 5}  # positions in .50:.05:.95
_MEASURES = {"score": "score, highest first", "radius": "radius, smallest first"}


def adapted_names(comparison: Comparison) -> tuple[str, ...]:
    """The adapted models as a report names them: none where there is only one."""
    names = tuple(one.variant.name for one in comparison.outcomes if one.variant.name != BASE)
    return names if len(names) > 1 else ()


def precision_recall(comparison: Comparison) -> list[PrecisionRecall]:
    """Curves of the masks at IoU .5 and .75 for each group of categories, or for all where there are no groups."""
    curves = []
    for label, outcome in _labelled(comparison):
        evaluator = outcome.contender.evaluators.get(INSTANCES)
        if not isinstance(evaluator, InstanceEvaluator):
            continue
        precision = precision_by_category(_records(outcome, INSTANCES), "segm")
        columns = group_columns(evaluator.categories, evaluator.groups)
        for group in [name for name in columns if name] or [""]:
            of_group = precision[..., columns[group]]
            there = of_group[0, 0] > -1
            for iou, t in _IOUS.items():
                if there.any():
                    curves.append(PrecisionRecall(label, iou, of_group[t][:, there].mean(axis=1), group))
    return curves


def risk_coverage(comparison: Comparison) -> list[RiskCoverage]:
    """Curves of score and radius as uncertainties of the confident detections."""
    curves = []
    for label, outcome in _labelled(comparison):
        if "uncertainty" in outcome.contender.evaluators:
            detections = Detections(_records(outcome, "uncertainty"))
            if len(detections.error):
                curves += [RiskCoverage(label, name, *detections.curve(kind)) for kind, name in _MEASURES.items()]
    return curves


def tree_confusion(comparison: Comparison) -> TreeConfusion | None:
    """Who claims whose regions, of every model."""
    shares: dict[str, np.ndarray] = {}
    names: tuple[str, ...] = ()
    for label, outcome in _labelled(comparison):
        evaluator = outcome.contender.evaluators.get("hierarchy")
        if isinstance(evaluator, GranularityEvaluator):
            claims, regions = evaluator.counts.confusion(_records(outcome, "hierarchy"))
            shares[label] = claims / np.where(regions > 0, regions, np.nan)[:, None]
            names = evaluator.counts.children
    tree = comparison.suite.hierarchy
    if not shares or tree is None:
        return None
    parents = {child: parent for family in (tree.parts, tree.kinds) for parent, c in family.items() for child in c}
    return TreeConfusion(names, tuple(parents[name] for name in names), shares)


def instance_counts(comparison: Comparison) -> dict[str, int]:
    """Ground-truth instances by category name, on the pictures that were scored."""
    outcome = comparison.outcomes[-1]
    evaluator = outcome.contender.evaluators.get(INSTANCES)
    if not isinstance(evaluator, InstanceEvaluator):
        return {}
    totals = np.sum([record["instances"] for record in _records(outcome, INSTANCES)], axis=0)
    categories = evaluator.categories
    return {categories[c]: int(total) for c, total in zip(sorted(categories), totals, strict=True)}


def radius_maps(comparison: Comparison, positions: Sequence[int]) -> list[RadiusMap]:
    """The radii of the last model's feature maps on some pictures, which it encodes once more."""
    predictor = comparison.outcomes[-1].contender.predictor
    maps = []
    if isinstance(predictor, Predictor) and adapter_config(predictor.model) is not None:
        for i in positions:
            picture = comparison.split.images.picture(i)
            with watch_radii(predictor.model) as radii:
                predictor.encode(picture)
            maps += [RadiusMap(np.asarray(picture), site, *pair) for site, pair in radii.items()]
    return maps


def extremes(comparison: Comparison, count: int) -> tuple[list[Extreme], list[Extreme]]:
    """Where the last model gained and where it lost most on the base, by position in the split and category id.

    None without a base or without instances.
    """
    base, last = comparison.outcomes[0], comparison.outcomes[-1]
    evaluator = last.contender.evaluators.get(INSTANCES)
    if base is last or not isinstance(evaluator, InstanceEvaluator):
        return [], []
    gained, lost = gained_and_lost(_records(base, INSTANCES), _records(last, INSTANCES), count)
    ids = sorted(evaluator.categories)

    def named(found: list[Extreme]) -> list[Extreme]:
        positions = last.contender.positions
        return [replace(one, picture=positions[one.picture], category=ids[one.category]) for one in found]

    return named(gained), named(lost)


def _records(outcome: Outcome, evaluator: str) -> list[dict[str, np.ndarray]]:
    return records_of(outcome.records, evaluator)


def _labelled(comparison: Comparison) -> list[tuple[str, Outcome]]:
    """The models as curves name them: "base" and "adapted", or the names of several."""
    several = bool(adapted_names(comparison))
    return [
        (one.variant.name if several or one.variant.name == BASE else "adapted", one) for one in comparison.outcomes
    ]
