"""The dial of an adapter: metrics along it, the front of gain against forgetting, and the value that a rule chooses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_fabric import Fabric

from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import KEPT
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.evaluation.kept import ask_base
from sam3_hyperet.evaluation.metric_table import EvalResult, forgetting
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator
from sam3_hyperet.evaluation.models import BASE, DIALS, EvalModel, along_dial
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.recording import RECORDS, Progress, Say, record_runs, run_facts, split_facts
from sam3_hyperet.evaluation.runner import ModelRun, open_run
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.evaluation.validation_score import headlines, known_metrics
from sam3_hyperet.files import Manifest
from sam3_hyperet.modeling.fingerprint import model_facts
from sam3_hyperet.training.choice import Rule
from sam3_hyperet.training.gathering import from_first
from sam3_hyperet.wording import count_of

GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True)
class DialFront:
    """Metrics along the dial of one adapter: what is gained against what is lost.

    Attributes:
        rule: what is to be gained, and under which conditions on what is kept.
        base: metrics of the base, which the conditions may refer to.
        metrics: metrics of the adapted model by dial, in rising order.
        images: what was measured, for people: "48 tuning images".
        chosen: the dial that the rule chose on these images; None where nothing was to be chosen.
    """

    rule: Rule
    base: Mapping[str, float]
    metrics: Mapping[float, Mapping[str, float]]
    images: str
    chosen: float | None = None

    def keeps(self, dial: float) -> bool:
        """Whether the conditions hold at a dial."""
        return self.rule.rank(self.metrics[dial], self.base)[0] == 0.0

    def lacking(self) -> list[str]:
        """The metrics of the rule that are not there at every dial, or not of the base where a condition needs them."""
        of_base = {condition.metric for condition in self.rule.conditions if condition.of_base}
        return [
            name
            for name in self.rule.metrics
            if any(name not in found for found in [*self.metrics.values(), *([self.base] if name in of_base else [])])
        ]

    def choice(self) -> str:
        """The dial that was chosen and why, in one line for people."""
        line = f"dial {self.chosen:g}, chosen by {self.rule} on {self.images}"
        if self.chosen is None or not self.keeps(self.chosen):
            return f"{line}: no dial keeps the condition, this one misses it least"
        if self.chosen == 0.0:
            kept = any(self.keeps(dial) for dial in self.metrics if dial)
            return f"{line}: {'none above it is better' if kept else 'none above it keeps the condition'}"
        return line


def chosen_dial(rule: Rule, base: Mapping[str, float], metrics: Mapping[float, Mapping[str, float]]) -> float:
    """The dial with the best metric among those that keep the rule's conditions; of equal ones the smallest.

    Where none keeps them, the one that misses them least. A metric that is no number is the worst.
    """
    return min(sorted(metrics), key=lambda dial: rule.rank(metrics[dial], base))


def choose_dial(
    model: host.Sam3Image,
    data: DataOptions,
    task: EvalTask,
    rule: Rule,
    grid: Sequence[float] = GRID,
    *,
    base: host.Sam3Image,
    base_metrics: Mapping[str, float] | None = None,
    run_dir: Path,
    fabric: Fabric,
    resume: bool = True,
    say: Say,
    progress: Progress,
) -> DialFront:
    """Measure an adapted model along the dial on tuning images, and choose a value; the model stays as it is.

    task: as `validation_score.open_validation` makes it of a tuning split, which is never the scored one; its
        metrics are those that a rule may name (`validation_score.known_metrics`).
    grid: dials to be tried, to which 0 is added.
    base: the model that the rule's `base` is, as `open_models` returns it; it may be the model without its adapter.
    base_metrics: of the base on these images, if they are known: `DialFront.base` of an earlier choice.
    run_dir: keeps the records, in `records/dials`, from which a killed choice goes on; `resume` as for `compare`.
    fabric: launched; its processes share the images, and all get the same front.
    """
    task = task.on(next(model.parameters()).device.type)
    models = along_dial([EvalModel(BASE, base), EvalModel("adapted", model)], [0.0, *grid])
    store = f"{RECORDS}/{DIALS}"
    known = [] if base_metrics is None or len(models) == 1 else [base_metrics]
    measured = models[len(known) :]
    runs = [_run(one, task, RecordStore(run_dir / store / one.name)) for one in measured]
    Manifest(run_dir).check(store)
    facts = []
    if fabric.is_global_zero:
        Manifest(run_dir).claim(store)
    if task.kept:
        ask_base(models[0], data, task, run_dir / store / KEPT, fabric, resume=resume, say=say, progress=progress)
        source = f"the {count_of(len(task.positions), f'{task.split.name} image')}"
        rule.check(known_metrics(task), source, "protocol.calibration_images")
    if fabric.is_global_zero:
        of_split, of_models = split_facts(data, task), model_facts([one.model for one in measured])
        facts = [run_facts(run, of_model, of_split) for run, of_model in zip(runs, of_models, strict=True)]
    record_runs(runs, facts, fabric, resume=resume, say=say, progress=progress)
    found = from_first(fabric, lambda: [headlines(run.evaluators, run.store.read_all(run.positions)) for run in runs])
    front = _front(rule, models, [*known, *found], task)
    return replace(front, chosen=chosen_dial(rule, front.base, front.metrics))


def front_of(results: Sequence[EvalResult], rule: Rule | None, task: EvalTask) -> DialFront | None:
    """The front of a comparison along the dial of one adapter, its base first; None for any other comparison.

    By the default rule where there is none, or none of whose metrics all are there.
    """
    default = default_rule(results[0].metrics)
    front = _front(rule or default, [one.model for one in results], [one.metrics for one in results], task)
    if not front.metrics:
        return None
    return replace(front, rule=default) if front.lacking() else front


def default_rule(known: Mapping[str, float]) -> Rule:
    """What a front of these metrics shows where nothing else is said: AP, or mIoU, over absent prompts recognised."""
    kept = "presence/accuracy_absent"
    where = f" where {kept} >= base-0.02" if kept in known else ""
    return Rule.parse(f"max {'segm/AP' if 'segm/AP' in known else 'fused/mIoU'}{where}", "dial_rule")


def _front(rule: Rule, models: Sequence[EvalModel], found: Sequence[Mapping[str, float]], task: EvalTask) -> DialFront:
    base, groups, metrics = found[0], ("", *task.groups), dict[float, Mapping[str, float]]()
    for model, of_model in zip(models, found, strict=True):
        if model.dial is not None:
            metrics[model.dial] = {**of_model, **forgetting(base, of_model, groups)}
    return DialFront(rule, base, metrics, count_of(len(task.positions), f"{task.split.name} image"))


def _run(model: EvalModel, task: EvalTask, store: RecordStore) -> ModelRun:
    evaluators: dict[str, Evaluator] = task.evaluators(model.model)
    return replace(open_run(model, task, store), evaluators=evaluators, probe=None)
