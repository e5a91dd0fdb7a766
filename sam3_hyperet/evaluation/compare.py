"""Any number of models on one split: their records, and their metrics in one flat table."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from sam3_hyperet.choices import KEPT
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.parts import prompted_ids
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.against_exact import difference_line, exact_runs, minus_exact, unmeasured_line
from sam3_hyperet.evaluation.bootstrap import FEWEST_IMAGES, intervals, paired_differences, remembered
from sam3_hyperet.evaluation.cascade import Calibration, Calibrator
from sam3_hyperet.evaluation.kept import ask_base
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Headline, Record
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.metrics.radius import BEFORE
from sam3_hyperet.evaluation.models import BASE, EXACT, FIRST_LOOKS, FOLDERS, EvalModel, is_base
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.recording import (
    RECORDS,
    Progress,
    Say,
    files_digest,
    record_runs,
    run_facts,
    split_facts,
)
from sam3_hyperet.evaluation.runner import ModelRun, evaluate_records, open_run, records_of
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.files import Manifest
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.modeling.fingerprint import model_facts
from sam3_hyperet.modeling.parameters import parameter_report
from sam3_hyperet.precision import precision_text
from sam3_hyperet.training.gathering import wait_for_all
from sam3_hyperet.wording import count_of

_RADII = ("radius/", "normalized_radius/")
_MANY_IMAGES = 1000  # whose intervals take minutes
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


@dataclass(frozen=True)
class Comparison:
    """The content of a report; `results` has the base first, where there is one."""

    data: DataOptions
    task: EvalTask
    results: tuple[EvalResult, ...]
    metrics: Mapping[str, float]
    notes: tuple[str, ...] = ()  # about all of it, for people


def compare(
    models: Sequence[EvalModel],
    data: DataOptions,
    task: EvalTask,
    run_dir: Path,
    fabric: Fabric,
    *,
    resume: bool = True,
    tuning: AnnotatedImages | None = None,
    say: Say,
    progress: Progress,
) -> Comparison | None:
    """Run all models on each image in turn and score them; None in a process that is not the first.

    The metrics are flat: `base/<data>/<metric>` of the base, `<data>/<metric>` of the adapted model, of several
    `<name>/<data>/<metric>`. Raises ConfigError for a folder of records that no evaluation wrote.
    models: the base first, if it is named "base". fabric: launched; its processes share the images.
    resume: go on from the records in `run_dir` that the same models made on the same images; else start over.
    tuning: the images that `cascade.calibration_images` returns for the protocol.
    say: called with lines for people. progress: a context for a number of images, its value called after each of them.
    """
    base = _base_of(models) if task.kept and not task.kept.is_annotated else None
    device, asked = next(models[0].model.parameters()).device.type, task.protocol.precision
    task = task.on(device)
    say(precision_text(asked, task.protocol.precision, device))
    if line := task.protocol.tiling.line():
        say(line)
    of_base = [model.name for model in models[1:] if models[0].name == BASE and is_base(model.model, models[0].model)]
    for name in of_base:
        say(f"{name}: at dial 0 it is the base, whose records it has")
    running = [model for model in models if model.name not in of_base]
    runs = [open_run(model, task, RecordStore(run_dir / RECORDS / model.name)) for model in running]
    exact = exact_runs(running, task, run_dir / RECORDS)
    every, looks = [*runs, *exact], RecordStore(run_dir / RECORDS / FIRST_LOOKS)
    names = [f"{RECORDS}/{name}" for name in (*(run.name for run in runs), EXACT, FIRST_LOOKS, KEPT)]
    Manifest(run_dir).check(*names)  # in every process, so that none waits for another that has failed
    if fabric.is_global_zero:
        Manifest(run_dir).claim(*names)
    if base:
        ask_base(base, data, task, run_dir / RECORDS / KEPT, fabric, resume=resume, say=say, progress=progress)
    if fabric.is_global_zero:
        of_models = model_facts([run.predictor.model for run in every])
        facts = split_facts(data, task)
        if tuning:
            of_tuning = files_digest(map(tuning.files, range(len(tuning))))
            if why := looks.prepare({**facts, "tuning": of_tuning, "models": of_models[: len(runs)]}, resume):
                say(why)
    fabric.barrier()
    calibrations = _calibrate(runs, tuning, looks, fabric, say, progress) if tuning else {}
    for run in runs:
        if run.name in calibrations:
            run.predictor.spare(calibrations[run.name].spare_below)
            say(calibrations[run.name].line(run.name, task.protocol))
    of_runs = []
    if fabric.is_global_zero:
        of_runs = [run_facts(run, of_model, facts) for run, of_model in zip(every, of_models, strict=True)]
    record_runs(every, of_runs, fabric, resume=resume, say=say, progress=progress)
    if not fabric.is_global_zero:
        return None
    found = {
        run.name: _result(model, run, str(of_model["base"]))
        for model, run, of_model in zip(running, runs, of_models, strict=False)
    }
    results = tuple(replace(found.get(model.name, found[running[0].name]), model=model) for model in models)
    draws = task.protocol.bootstrap
    if draws and len(task.positions) >= _MANY_IMAGES:
        say(f"metrics, and intervals by {count_of(draws, 'draw')} of {count_of(len(task.positions), 'image')} …")
    metrics = all_metrics(data, task, results) | differences(data.name, results, draws)
    metrics |= between(data.name, results, draws) | own_intervals(data.name, results, draws)
    notes = [*_few_images(task)]
    if calibrations and not exact:
        notes += [unmeasured_line(one.model.name, one.metrics["speed/spared_ratio"]) for one in results]
    parts = model_parts([model.name for model in models])
    for run, twin in zip(runs, exact, strict=False):
        changes, spared = minus_exact(run, twin), found[run.name].metrics.get("speed/spared_ratio")
        notes.append(difference_line(run.name, changes, len(twin.positions), spared))
        metrics |= {MetricKey(key, data=data.name, model=parts[run.name]): value for key, value in changes.items()}
    for note in notes:
        say(note)
    said = [one.line(name, task.protocol) for name, one in calibrations.items()]
    return Comparison(data, task, results, metrics, (*said, *notes))


def _few_images(task: EvalTask) -> Iterator[str]:
    """A line where intervals were asked for, and the images are too few for them."""
    if task.protocol.bootstrap and len(task.positions) < FEWEST_IMAGES:
        few = f"{count_of(len(task.positions), 'image')}: too few for intervals, which take {FEWEST_IMAGES}"
        yield f"{few}; nothing here says what is chance"


def _base_of(models: Sequence[EvalModel]) -> EvalModel:
    """The base of the models. Raises ConfigError where there is none, whose answers could be kept."""
    if models[0].name != BASE:
        raise ConfigError("kept.names: there is no base whose answers could be kept; expected kept.names=[]")
    return models[0]


def remove_records(comparison: Comparison, run_dir: Path) -> None:
    """Remove the records of a comparison and of the dial that was chosen for it, and nothing else."""
    names = [*(result.model.name for result in comparison.results), *FOLDERS]
    Manifest(run_dir).remove(*(f"{RECORDS}/{name}" for name in names))
    with contextlib.suppress(OSError):  # it holds something else
        (run_dir / RECORDS).rmdir()


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


def _calibrate(
    runs: Sequence[ModelRun],
    images: AnnotatedImages,
    store: RecordStore,
    fabric: Fabric,
    say: Say,
    progress: Progress,
) -> Mapping[str, Calibration]:
    """The calibration of each model's first looks, in every process the same."""
    calibrator = Calibrator({run.name: run.predictor for run in runs}, images, runs[0].task.protocol)
    every = calibrator.positions
    missing, _ = fabric.broadcast(store.missing(every) if fabric.is_global_zero else ([], 0))
    if missing:
        some = f"{len(missing)} of " if len(missing) < len(every) else ""
        shown = f"{some}{count_of(len(every), 'tuning image')}"
        say(f"first looks: calibrated on {shown}, by every model's exact predictions")
    calibrator.record(store, missing[fabric.global_rank :: fabric.world_size], progress)
    wait_for_all(fabric)
    return calibrator.calibrations(store)


def _result(model: EvalModel, run: ModelRun, base_digest: str) -> EvalResult:
    records = run.store.read_all(run.positions)
    prompts = sum(len(run.task.asked(position)) for position in run.positions)
    metrics = evaluate_records(run.evaluators, records, prompts)
    return EvalResult(model, run.evaluators, records, metrics, base_digest)


def _not_adapted_to(data: DataOptions, task: EvalTask) -> list[str]:
    """Groups and granularities none of whose categories has annotations and prompts that training may use."""
    categories = task.split.images.categories
    prompted = prompted_ids(data.prompts, data.unseen, categories)
    trained = {c.id for c in categories} if prompted is None else set(prompted)
    for names in (data.annotated, [name for name, weight in (data.prompt_weights or {}).items() if weight]):
        named = {i for name in names for i in task.groups.get(name, ())}
        trained &= named | {c.id for c in categories if c.granularity in names} if names else trained
    return [name for name, ids in task.groups.items() if trained.isdisjoint(ids)]
