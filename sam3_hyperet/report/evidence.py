"""The evidence behind a comparison's metrics, from its records: curves, confusion, counts, radii."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from sam3_hyperet.evaluation.compare import Comparison
from sam3_hyperet.evaluation.metric_table import EvalResult
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Record
from sam3_hyperet.evaluation.metrics.hierarchy import GranularityEvaluator
from sam3_hyperet.evaluation.metrics.instances import instance_metrics
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.metrics.radius import BEFORE, METRICS, RadiusEvaluator
from sam3_hyperet.evaluation.metrics.uncertainty import PooledDetections, UncertaintyEvaluator
from sam3_hyperet.evaluation.models import BASE
from sam3_hyperet.evaluation.task import INSTANCES
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.gates import prompt_gates
from sam3_hyperet.modeling.latest_radii import LatestRadii
from sam3_hyperet.modeling.radius_sums import BINS
from sam3_hyperet.precision import autocast, float32_products
from sam3_hyperet.report.examples import model_labels
from sam3_hyperet.report.figures.category_plots import TreeConfusion
from sam3_hyperet.report.figures.gate_plots import PromptGates
from sam3_hyperet.report.figures.radius_maps import RadiusMap
from sam3_hyperet.report.figures.radius_plots import RadiusShift
from sam3_hyperet.report.figures.score_plots import PrecisionRecall, RiskCoverage
from sam3_hyperet.report.tables import ALONE

_E = TypeVar("_E", bound=Evaluator)
_IOUS = {0.5: 0, 0.75: 5}  # positions in .50:.05:.95
_MEASURES = {"score": "score, highest first", "radius": "radius, smallest first"}


def adapted_names(comparison: Comparison) -> tuple[str, ...]:
    """The adapted models as a report names them: none where there is only one; of the base alone, the base."""
    names = tuple(result.model.name for result in comparison.results if result.model.name != BASE)
    return names if len(names) > 1 else () if names else ALONE


def detailed(comparison: Comparison) -> Comparison:
    """The part of a comparison whose curves and images are shown: all of it, or along a dial the base and one model.

    That is the adapter as trained, dial 1, or the one nearest to it.
    """
    along = [result for result in comparison.results if result.model.dial is not None and result.model.name != BASE]
    if len(along) < 2:
        return comparison
    base = [result for result in comparison.results if result.model.name == BASE]
    return replace(comparison, results=(*base, min(along, key=lambda one: abs((one.model.dial or 0.0) - 1.0))))


def precision_recall(comparison: Comparison) -> list[PrecisionRecall]:
    """Curves of the masks at IoU .5 and .75 by group of categories, or of all where there are no groups."""
    curves = []
    for label, evaluator, records in _evaluated(comparison.results, INSTANCES, InstanceEvaluator):
        precision = instance_metrics.precision_recall(records, "segm")
        columns = instance_metrics.group_columns(evaluator.categories, evaluator.groups)
        for group in [name for name in columns if name] or [""]:
            of_group = precision[..., columns[group]]
            there = of_group[0, 0] > -1
            for iou, t in _IOUS.items() if there.any() else ():
                curves.append(PrecisionRecall(label, iou, of_group[t][:, there].mean(axis=1), group))
    return curves


def risk_coverage(comparison: Comparison) -> list[RiskCoverage]:
    """Curves of score and radius as uncertainties of the confident detections."""
    curves = []
    for label, _, records in _evaluated(comparison.results, "uncertainty", UncertaintyEvaluator):
        detections = PooledDetections(records)
        if len(detections.error):
            curves += [RiskCoverage(label, name, *detections.curve(kind)) for kind, name in _MEASURES.items()]
    return curves


def tree_confusion(comparison: Comparison) -> TreeConfusion | None:
    """Fractions of each concept's regions that the prompts of others match, by model."""
    fractions: dict[str, np.ndarray] = {}
    for label, evaluator, records in _evaluated(comparison.results, "hierarchy", GranularityEvaluator):
        matches, regions = evaluator.confusion(records)
        fractions[label] = matches / np.where(regions > 0, regions, np.nan)[:, None]
    tree = comparison.task.hierarchy
    if not fractions or tree is None:
        return None
    parents = {child: parent for family in (tree.parts, tree.kinds) for parent, c in family.items() for child in c}
    return TreeConfusion(tree.children, tuple(parents[name] for name in tree.children), fractions)


def instance_counts(comparison: Comparison) -> dict[str, int]:
    """Ground-truth instances by category name, on the scored images."""
    for _, evaluator, records in _evaluated(comparison.results[-1:], INSTANCES, InstanceEvaluator):
        totals = np.sum([record["instances"] for record in records], axis=0).tolist()
        names = [evaluator.categories[c] for c in sorted(evaluator.categories)]
        return dict(zip(names, totals, strict=True))
    return {}


def radius_maps(comparison: Comparison, positions: Sequence[int]) -> list[RadiusMap]:
    """The radii of the last model's feature maps on some images, which it encodes once more."""
    model, task, maps = comparison.results[-1].model.model, comparison.task, []
    if adapter_config(model) is not None:
        predictor = Predictor(model, task.vocabulary, resolution(model), precision=task.protocol.precision)
        for i in positions:
            image = task.split.images.load_image(i)
            with LatestRadii(model) as probe, float32_products(predictor.precision):
                predictor.encode(image)
            maps += [RadiusMap(np.asarray(image), site, *pair) for site, pair in probe.maps().items()]
    return maps


def gates_of_prompts(comparison: Comparison) -> PromptGates | None:
    """The gates of the last model by prompt, each prompt with its granularity; None for a model without gates."""
    model, task = comparison.results[-1].model.model, comparison.task
    precision = task.protocol.precision
    with float32_products(precision), autocast(precision, model.device.type):
        gates = prompt_gates(model, task.texts)
    levels = {category.name: category.granularity for category in task.split.images.categories}
    return PromptGates(gates, {text: levels.get(text, "other") for text in gates}) if gates else None


def radius_shifts(result: EvalResult) -> list[RadiusShift]:
    """Histograms and means of a model's radii, in front of and behind the adjustment at each site."""
    shifts, edges = [], tuple(np.linspace(0.0, 1.0, BINS + 1).tolist())
    for _, evaluator, records in _evaluated([result], "radius", RadiusEvaluator):
        means = evaluator.evaluate(records)
        for name, (before, after) in evaluator.histograms(records).items():
            if before.any():
                radius, normalised, saturation = (key.format(name) for key in METRICS)
                keys = (normalised + BEFORE, normalised, radius + BEFORE, radius, saturation)
                counts = (tuple(before.tolist()), tuple(after.tolist()))
                shifts.append(RadiusShift(name, edges, *counts, *(means[key] for key in keys)))
    return shifts


def _evaluated(results: Sequence[EvalResult], name: str, kind: type[_E]) -> Iterator[tuple[str, _E, list[Record]]]:
    """The models with such an evaluator, and its records: "base" and "adapted", or the names of several."""
    for label, result in zip(model_labels(results), results, strict=True):
        evaluator = result.evaluators.get(name)
        if isinstance(evaluator, kind):
            yield label, evaluator, list(result.records_of(name))
