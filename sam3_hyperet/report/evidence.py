"""The evidence behind a comparison's metrics, from the records of its images: curves, confusion, counts, radii."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sam3_hyperet.evaluation.compare import Comparison, EvalResult
from sam3_hyperet.evaluation.metrics.hierarchy import GranularityEvaluator
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import group_columns
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import precision_recall as precision_by_category
from sam3_hyperet.evaluation.metrics.radius import BEFORE, METRICS, RadiusEvaluator
from sam3_hyperet.evaluation.metrics.uncertainty import PooledDetections
from sam3_hyperet.evaluation.models import BASE
from sam3_hyperet.evaluation.task import INSTANCES
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.probe import BINS, RadiusProbe
from sam3_hyperet.report.figures.category_plots import TreeConfusion
from sam3_hyperet.report.figures.radius_maps import RadiusMap
from sam3_hyperet.report.figures.radius_plots import RadiusShift
from sam3_hyperet.report.figures.score_plots import PrecisionRecall, RiskCoverage

_IOUS = {0.5: 0, 0.75: 5}  # positions in .50:.05:.95
_MEASURES = {"score": "score, highest first", "radius": "radius, smallest first"}


def adapted_names(comparison: Comparison) -> tuple[str, ...]:
    """The adapted models as a report names them: none where there is only one."""
    names = tuple(result.model.name for result in comparison.results if result.model.name != BASE)
    return names if len(names) > 1 else ()


def precision_recall(comparison: Comparison) -> list[PrecisionRecall]:
    """Curves of the masks at IoU .5 and .75 by group of categories, or of all where there are no groups."""
    curves = []
    for label, result in _labelled(comparison):
        evaluator = result.evaluators.get(INSTANCES)
        if not isinstance(evaluator, InstanceEvaluator):
            continue
        precision = precision_by_category(result.records_of(INSTANCES), "segm")
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
    for label, result in _labelled(comparison):
        if "uncertainty" in result.evaluators:
            detections = PooledDetections(result.records_of("uncertainty"))
            if len(detections.error):
                curves += [RiskCoverage(label, name, *detections.curve(kind)) for kind, name in _MEASURES.items()]
    return curves


def tree_confusion(comparison: Comparison) -> TreeConfusion | None:
    """Fractions of each concept's regions that the prompts of others match, by model."""
    fractions: dict[str, np.ndarray] = {}
    names: tuple[str, ...] = ()
    for label, result in _labelled(comparison):
        evaluator = result.evaluators.get("hierarchy")
        if isinstance(evaluator, GranularityEvaluator):
            matches, regions = evaluator.confusion(result.records_of("hierarchy"))
            fractions[label] = matches / np.where(regions > 0, regions, np.nan)[:, None]
            names = evaluator.children
    tree = comparison.task.hierarchy
    if not fractions or tree is None:
        return None
    parents = {child: parent for family in (tree.parts, tree.kinds) for parent, c in family.items() for child in c}
    return TreeConfusion(names, tuple(parents[name] for name in names), fractions)


def instance_counts(comparison: Comparison) -> dict[str, int]:
    """Ground-truth instances by category name, on the scored images."""
    result = comparison.results[-1]
    evaluator = result.evaluators.get(INSTANCES)
    if not isinstance(evaluator, InstanceEvaluator):
        return {}
    totals = np.sum([record["instances"] for record in result.records_of(INSTANCES)], axis=0)
    categories = evaluator.categories
    return {categories[c]: int(total) for c, total in zip(sorted(categories), totals, strict=True)}


def radius_maps(comparison: Comparison, positions: Sequence[int]) -> list[RadiusMap]:
    """The radii of the last model's feature maps on some images, which it encodes once more."""
    model, maps = comparison.results[-1].model.model, []
    if adapter_config(model) is not None:
        precision = comparison.task.protocol.precision
        predictor = Predictor(model, comparison.task.vocabulary, resolution(model), precision=precision)
        for i in positions:
            image = comparison.task.split.images.load_image(i)
            with RadiusProbe(model) as probe:
                predictor.encode(image)
            maps += [RadiusMap(np.asarray(image), site, *pair) for site, pair in probe.maps().items()]
    return maps


def radius_shifts(result: EvalResult) -> list[RadiusShift]:
    """Histograms and means of a model's radii, in front of and behind the adjustment at each site."""
    evaluator = result.evaluators.get("radius")
    if not isinstance(evaluator, RadiusEvaluator):
        return []
    shifts = []
    means = evaluator.evaluate(result.records_of("radius"))
    for name, (before, after) in evaluator.histograms(result.records_of("radius")).items():
        if not before.any():
            continue
        radius, normalised, saturation = (key.format(name) for key in METRICS)
        shifts.append(
            RadiusShift(
                site=name,
                edges=tuple(np.linspace(0.0, 1.0, BINS + 1).tolist()),
                before=tuple(before.tolist()),
                after=tuple(after.tolist()),
                before_mean=means[normalised + BEFORE],
                after_mean=means[normalised],
                before_radius=means[radius + BEFORE],
                after_radius=means[radius],
                saturation=means[saturation],
            )
        )
    return shifts


def _labelled(comparison: Comparison) -> list[tuple[str, EvalResult]]:
    """The models as curves name them: "base" and "adapted", or the names of several."""
    several = bool(adapted_names(comparison))
    return [
        (result.model.name if several or result.model.name == BASE else "adapted", result)
        for result in comparison.results
    ]
