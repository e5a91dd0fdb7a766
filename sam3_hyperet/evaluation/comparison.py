"""Any number of models on one split: who they are, what they answered, and their metrics in one flat table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam3_hyperet import sam3_host as host
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import Split
from sam3_hyperet.evaluation.bootstrap import paired_differences
from sam3_hyperet.evaluation.metrics.evaluator import Headline
from sam3_hyperet.evaluation.metrics.forgetting import forgetting
from sam3_hyperet.evaluation.runner import Contender, records_of
from sam3_hyperet.evaluation.task import Suite
from sam3_hyperet.modeling.parameters import parameter_report

BASE = "base"
INSTANCES = "instances"  # the evaluator of AP
NOVEL = "ov_novel"
RADII = ("radius/", "normalized_radius/")


@dataclass(frozen=True)
class Variant:
    """A model to compare: `name` is unique, `adapter` its file, whose hash the report names."""

    name: str
    model: host.Sam3Image
    adapter: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What a model answered, a record for each of the suite's positions, and its metrics, without a prefix."""

    variant: Variant
    contender: Contender
    records: Sequence[Mapping[str, np.ndarray]]
    metrics: Mapping[str, float]

    def record(self, evaluator: str, position: int) -> dict[str, np.ndarray]:
        """What one of its evaluators noted of the picture at `position`."""
        return records_of([self.records[self.contender.positions.index(position)]], evaluator)[0]


@dataclass(frozen=True)
class Comparison:
    """Everything that a report can show of a comparison; `outcomes` has the base first, where there is one."""

    data: DataOptions
    split: Split
    suite: Suite
    outcomes: tuple[Outcome, ...]
    metrics: Mapping[str, float]


def prefixes(names: Sequence[str]) -> dict[str, str]:
    """What the metrics of each model begin with: several adapted ones are named, one is not, and so a model alone."""
    several = len([name for name in names if name != BASE]) > 1
    return {name: f"{BASE}/" if name == BASE and len(names) > 1 else f"{name}/" if several else "" for name in names}


def all_metrics(data: DataOptions, suite: Suite, outcomes: Sequence[Outcome]) -> dict[str, float]:
    """The metrics of all models, flat; what each adapted one has lost on what it was not adapted to."""
    metrics: dict[str, float] = {}
    before = prefixes([outcome.variant.name for outcome in outcomes])
    base = outcomes[0] if len(outcomes) > 1 and outcomes[0].variant.name == BASE else None
    for outcome in outcomes:
        prefix = before[outcome.variant.name]
        if outcome is not base:
            report = parameter_report(outcome.variant.model)  # what trains, the caller says
            metrics |= {f"{prefix}params/{key}": report[key] for key in ("added", "total", "added_ratio")}
        metrics |= {_flat(key, prefix, data.name): value for key, value in outcome.metrics.items()}
        if base and outcome is not base:
            lost = forgetting(base.metrics, outcome.metrics, _not_adapted_to(data, suite))
            metrics |= {f"{prefix}{data.name}/{key}": value for key, value in lost.items()}
    return metrics


def differences(data: str, outcomes: Sequence[Outcome], draws: int) -> dict[str, float]:
    """How each adapted model differs from the base in the evaluators' headlines, with 95 % intervals by the paired
    bootstrap over pictures: `difference/<data>/<key>`, `…/low` and `…/high`; of several models
    `difference/<name>/<data>/<key>`."""
    base, *adapted = outcomes
    pictures = len(base.records)
    if base.variant.name != BASE or draws == 0 or pictures < 2:
        return {}
    before = prefixes([outcome.variant.name for outcome in outcomes])
    metrics = {}
    for outcome in adapted:
        found = paired_differences(_headline(outcome), _headline(base), pictures, draws)
        for key, difference in found.items():
            name = f"difference/{before[outcome.variant.name]}{data}/{key}"
            figures = {name: difference.value, f"{name}/low": difference.low, f"{name}/high": difference.high}
            metrics |= {name: value for name, value in figures.items() if np.isfinite(value)}
    return metrics


def _headline(outcome: Outcome) -> Headline:
    """The headlines of all evaluators of a model in one."""
    parts = [
        evaluator.headline(records_of(outcome.records, name))
        for name, evaluator in outcome.contender.evaluators.items()
    ]
    return lambda weights: {key: value for part in parts for key, value in part(weights).items()}


def fast_minus_exact(data: str, outcomes: Sequence[Outcome], exact: Contender) -> dict[str, float]:
    """How much the last model's mask AP changes by its `min_score`, on the pictures that `exact` was asked about."""
    fast = outcomes[-1]
    ours = [fast.record(INSTANCES, position) for position in exact.positions]
    theirs = records_of(exact.store.read_all(exact.positions), INSTANCES)
    once = np.ones(len(ours), dtype=np.int64)
    aps = [exact.evaluators[INSTANCES].headline(records)(once)["segm/AP"] for records in (ours, theirs)]
    if np.isnan(aps).any():
        return {}
    prefix = prefixes([outcome.variant.name for outcome in outcomes])[fast.variant.name]
    return {f"{prefix}{data}/speed/fast_minus_exact/AP": aps[0] - aps[1]}


def _not_adapted_to(data: DataOptions, suite: Suite) -> list[str]:
    """Groups whose annotations or prompts training leaves out."""
    granularities = {category.granularity for category in suite.split.images.categories}
    trained = set(data.annotated or data.mix or granularities)
    left_out = [name for name in suite.groups if name in granularities - trained]
    return left_out + [name for name in suite.groups if name == NOVEL and data.prompts]


def _flat(key: str, prefix: str, data: str) -> str:
    """The name of a metric among those of all models. Radii are the model's rather than the data's, and what an only
    adapted model has in front of its adjustments counts as the base's."""
    if not key.startswith(RADII):
        return f"{prefix}{data}/{key}"
    if prefix or not key.endswith("_before"):
        return f"{prefix}{key}"
    return f"{BASE}/{key.removesuffix('_before')}"
