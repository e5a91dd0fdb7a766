"""The metrics of several models on one data set in one flat table: each model's, differences, and their intervals."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.parts import prompted_ids
from sam3_hyperet.evaluation.bootstrap import intervals, paired_differences, remembered
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Headline, Record
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.metrics.radius import BEFORE
from sam3_hyperet.evaluation.models import BASE, EvalModel
from sam3_hyperet.evaluation.runner import records_of
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.modeling.parameters import parameter_report

_RADII = ("radius/", "normalized_radius/")
_MOST_TESTED = 6  # adapted models that are tested against each other: 15 pairs
_FORGETTABLE = ("segm/AP", "bbox/AP", "mIoU", "presence/IL_MCC", "presence/accuracy_absent")


@dataclass(frozen=True)
class EvalResult:
    """A model's records, one for each of the task's positions, and its metrics, without a prefix."""

    model: EvalModel
    evaluators: Mapping[str, Evaluator]
    records: Sequence[Record]
    metrics: Mapping[str, float]
    base_digest: str = ""  # fingerprint of the base weights that it ran with

    def records_of(self, evaluator: str) -> list[dict[str, np.ndarray]]:
        """The part of each record that is one evaluator's."""
        return records_of(self.records, evaluator)

    @cached_property
    def headlines(self) -> dict[str, Headline]:
        """The headline of each evaluator, by its name; what it gave for a draw of the images is kept."""
        return {name: remembered(one.headline(self.records_of(name))) for name, one in self.evaluators.items()}

    def headline(self) -> Headline:
        """The headlines of all evaluators in one."""
        parts = self.headlines.values()
        return lambda weights: {key: value for part in parts for key, value in part(weights).items()}


def model_parts(names: Sequence[str]) -> dict[str, str]:
    """The `model` of each model's metric keys: its name for several adapted ones, nothing for one, or a model alone."""
    several = len([name for name in names if name != BASE]) > 1
    return {name: name if several or (name == BASE and len(names) > 1) else "" for name in names}


def all_metrics(data: DataOptions, task: EvalTask, results: Sequence[EvalResult]) -> dict[str, float]:
    """The metrics of all models, flat; what each adapted one has lost on what it was not adapted to."""
    metrics: dict[str, float] = {}
    parts = model_parts([result.model.name for result in results])
    base = results[0] if len(results) > 1 and results[0].model.name == BASE else None
    for result in results:
        model = parts[result.model.name]
        if result is not base:
            report = parameter_report(result.model.model)
            for key in ("added", "total", "added_ratio"):  # `trainable` is for the caller to add
                metrics[MetricKey(f"params/{key}", model=model)] = report[key]
            if adapter_config(result.model.model) is not None:
                metrics[MetricKey("dial", model=model)] = dial_of(result.model.model)
        for key, value in result.metrics.items():
            if not key.startswith(_RADII):
                metrics[MetricKey.of(key, data.name, model)] = value
            elif not (base and key.endswith(BEFORE) and key.removesuffix(BEFORE) in base.metrics):
                metrics[MetricKey(key, model=model)] = value  # radii are the model's rather than the data's
        if base and result is not base:
            lost = forgetting(base.metrics, result.metrics, _not_adapted_to(data, task))
            metrics |= {MetricKey(key, data=data.name, model=model): value for key, value in lost.items()}
    return metrics


def forgetting(base: Mapping[str, float], adapted: Mapping[str, float], groups: Iterable[str]) -> dict[str, float]:
    """Losses on groups of classes that were not adapted to: the base's metric − the adapted model's, > 0 is lost.

    base, adapted: metrics of a data set, named without model or data set: `part/segm/AP`.
    groups: granularities that were not annotated in training, `ov_novel`; "" for all classes.
    Returns `forgetting/<group>/<metric>`; no key where one of the two is missing, or undefined (COCO's −1). Of
    `presence/accuracy_absent` it is the growth of the fraction of absent prompts with false alarms.
    """
    keys = [f"{group}/{metric}".lstrip("/") for group in groups for metric in _FORGETTABLE]
    both = {key: (base[key], adapted[key]) for key in keys if key in base and key in adapted}
    defined = {key: pair for key, pair in both.items() if not (key.endswith("AP") and -1 in pair)}
    return {f"forgetting/{key}": before - after for key, (before, after) in defined.items()}


def differences(data: str, results: Sequence[EvalResult], draws: int) -> dict[str, float]:
    """The differences of each adapted model from the base in the evaluators' headlines: `difference/<data>/<key>`, of
    several models `difference/<name>/<data>/<key>`; below it `low` and `high` of the 95 % interval, if it has one, and
    `dropped`, the draws without a value, if there are any."""
    base, *adapted = results
    if base.model.name != BASE or draws == 0:
        return {}
    parts, metrics = model_parts([result.model.name for result in results]), dict[str, float]()
    for result in adapted:
        of_model = parts[result.model.name]
        metrics |= _paired(f"difference/{of_model}".rstrip("/"), result, base, data, draws)
    return metrics


def between(data: str, results: Sequence[EvalResult], draws: int) -> dict[str, float]:
    """The same between every two adapted models, the later less the earlier: `between/<later>/<earlier>/<data>/<key>`.

    None along a dial, whose models are one adapter, and of more than six, which would be too many pairs to read.
    """
    adapted = [result for result in results if result.model.name != BASE]
    if draws == 0 or len(adapted) > _MOST_TESTED or any(result.model.dial is not None for result in adapted):
        return {}
    metrics: dict[str, float] = {}
    for one, other in itertools.combinations(adapted, 2):
        metrics |= _paired(f"between/{other.model.name}/{one.model.name}", other, one, data, draws)
    return metrics


def _paired(prefix: str, model: EvalResult, base: EvalResult, data: str, draws: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for key, found in paired_differences(model.headline(), base.headline(), len(base.records), draws).items():
        name = f"{prefix}/{MetricKey.of(key, data)}"
        metrics |= {name: found.value, f"{name}/low": found.low, f"{name}/high": found.high}
        metrics |= {f"{name}/dropped": found.dropped} if found.dropped else {}
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def own_intervals(data: str, results: Sequence[EvalResult], draws: int) -> dict[str, float]:
    """The 95 % intervals of evaluators that have them: `<model>/<data>/<key>/low` and `…/high`."""
    parts, metrics = model_parts([result.model.name for result in results]), dict[str, float]()
    for result in results:
        for name, evaluator in result.evaluators.items():
            if evaluator.has_intervals and draws:
                for key, ends in intervals(result.headlines[name], len(result.records), draws).items():
                    for end, value in zip(("low", "high"), ends, strict=True):
                        metrics[MetricKey(f"{key}/{end}", data=data, model=parts[result.model.name])] = value
    return {key: value for key, value in metrics.items() if np.isfinite(value)}


def _not_adapted_to(data: DataOptions, task: EvalTask) -> list[str]:
    """Groups and granularities none of whose categories has annotations and prompts that training may use."""
    categories = task.split.images.categories
    prompted = prompted_ids(data.prompts, data.unseen, categories)
    trained = {c.id for c in categories} if prompted is None else set(prompted)
    for names in (data.annotated, [name for name, weight in (data.prompt_weights or {}).items() if weight]):
        named = {i for name in names for i in task.groups.get(name, ())}
        trained &= named | {c.id for c in categories if c.granularity in names} if names else trained
    return [name for name, ids in task.groups.items() if trained.isdisjoint(ids)]
