"""Any number of models on one split: their records, and their metrics in one flat table."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.vocabularies import vocabulary_ids
from sam3_hyperet.digest import sha256
from sam3_hyperet.evaluation.against_exact import difference_line, exact_runs, minus_exact, unmeasured_line
from sam3_hyperet.evaluation.bootstrap import paired_differences
from sam3_hyperet.evaluation.cascade import Calibration, Calibrator
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Headline, Record
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.metrics.radius import BEFORE
from sam3_hyperet.evaluation.models import BASE, EXACT, FIRST_LOOKS, EvalModel
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.runner import ModelRun, evaluate_records, open_run, record_images, records_of
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.files import Manifest
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.modeling.compilation import compiled_regions
from sam3_hyperet.modeling.fingerprint import model_facts
from sam3_hyperet.modeling.parameters import parameter_report
from sam3_hyperet.precision import precision_text
from sam3_hyperet.version import versions

RECORDS = "records"
Progress = Callable[[int], AbstractContextManager[Callable[[], None]]]
_RADII = ("radius/", "normalized_radius/")
_FORGETTABLE = ("segm/AP", "bbox/AP", "mIoU", "presence/IL_MCC", "presence/accuracy_absent")


@dataclass(frozen=True)
class EvalResult:
    """A model's records, one for each of the task's positions, and its metrics, without a prefix."""

    model: EvalModel
    evaluators: Mapping[str, Evaluator]
    records: Sequence[Record]
    metrics: Mapping[str, float]

    def records_of(self, evaluator: str) -> list[dict[str, np.ndarray]]:
        """The part of each record that is one evaluator's."""
        return records_of(self.records, evaluator)

    def headline(self) -> Headline:
        """The headlines of all evaluators in one."""
        parts = [evaluator.headline(self.records_of(name)) for name, evaluator in self.evaluators.items()]
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
    say: Callable[[str], None],
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
    device, asked = next(models[0].model.parameters()).device.type, task.protocol.precision
    task = task.on(device)
    say(precision_text(asked, task.protocol.precision, device))
    runs = [open_run(model, task, RecordStore(run_dir / RECORDS / model.name)) for model in models]
    exact = exact_runs(models, task, run_dir / RECORDS)
    every, looks = [*runs, *exact], RecordStore(run_dir / RECORDS / FIRST_LOOKS)
    names = [f"{RECORDS}/{name}" for name in (*(run.name for run in runs), EXACT, FIRST_LOOKS)]
    Manifest(run_dir).check(*names)  # in every process, so that none waits for another that has failed
    if fabric.is_global_zero:
        Manifest(run_dir).claim(*names)
        of_models = model_facts([run.predictor.model for run in every])
        facts = split_facts(data, task)
        if tuning:
            of_tuning = _digest(map(tuning.files, range(len(tuning))))
            if why := looks.prepare({**facts, "tuning": of_tuning, "models": of_models[: len(runs)]}, resume):
                say(why)
    fabric.barrier()
    calibrations = _calibrate(runs, tuning, looks, fabric, say, progress) if tuning else {}
    for run in runs:
        if run.name in calibrations:
            run.predictor.spare(calibrations[run.name].spare_below)
            say(calibrations[run.name].line(run.name, task.protocol))
    if fabric.is_global_zero:
        for run, of_model in zip(every, of_models, strict=True):
            own = {"resolution": run.predictor.resolution, "evaluators": list(run.evaluators)}
            own |= {"spare_below": run.predictor.spare_below} if run.predictor.spare_below else {}
            own |= {"curvatures": run.probe.curvatures()} if run.probe else {}
            if why := run.store.prepare({**of_model, **facts, **own}, resume):
                say(why)
    fabric.barrier()
    positions = [_own_positions(run, fabric, say) for run in every]
    images = len(set().union(*positions))
    running = [run.predictor.model for run in every]
    with progress(images) as on_image, shared_encoding(running), compiled_regions(running):
        record_images(every, positions, task.split.images.load_image, workers=task.protocol.workers, on_image=on_image)
    fabric.barrier()
    if not fabric.is_global_zero:
        return None
    results = tuple(_result(model, run) for model, run in zip(models, runs, strict=True))
    metrics = all_metrics(data, task, results) | differences(data.name, results, task.protocol.bootstrap)
    parts = model_parts([run.name for run in runs])
    notes = [one.line(name, task.protocol) for name, one in calibrations.items()]
    if not exact:
        for result in results if calibrations else ():
            notes.append(unmeasured_line(result.model.name, result.metrics["speed/spared_ratio"]))
            say(notes[-1])
    for run, twin, result in zip(runs, exact, results, strict=False):
        found, spared = minus_exact(run, twin), result.metrics.get("speed/spared_ratio")
        notes.append(difference_line(run.name, found, len(twin.positions), spared))
        say(notes[-1])
        metrics |= {MetricKey(key, data=data.name, model=parts[run.name]): value for key, value in found.items()}
    return Comparison(data, task, results, metrics, tuple(notes))


def remove_records(comparison: Comparison, run_dir: Path) -> None:
    """Remove the records of a comparison, and nothing else."""
    names = [*(result.model.name for result in comparison.results), EXACT, FIRST_LOOKS]
    Manifest(run_dir).remove(*(f"{RECORDS}/{name}" for name in names))
    with contextlib.suppress(OSError):  # it holds something else
        (run_dir / RECORDS).rmdir()


def model_parts(names: Sequence[str]) -> dict[str, str]:
    """The `model` of each model's metric keys: its name for several adapted ones, nothing for one, or a model alone."""
    several = len([name for name in names if name != BASE]) > 1
    return {name: name if several or (name == BASE and len(names) > 1) else "" for name in names}


def split_facts(data: DataOptions, task: EvalTask) -> dict[str, object]:
    """All that decides a model's records on a split, as plain facts: equal facts, equal records.

    A file is known by its name, size and time.
    """
    split = task.split
    files = [split.images.files(i) for i in task.positions]
    if split.labels is not None and split.labels is not split.images:
        files += [split.labels.files(i) for i in task.positions]
    values = {
        "vocabulary": (task.vocabulary,),
        "categories": (split.images.categories, split.labels.categories if split.labels else (), task.groups),
    }
    return {
        **{f"protocol.{name}": value for name, value in task.protocol.deciding().items()},
        "data": f"{data.name}, {split.name} split, {len(task.positions)} of {len(split.images)} images",
        **{name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in values.items()},
        "files": _digest(files),
        "annotations": sha256(split.coco_file) if split.coco_file else None,
        **{f"version.{name}": version for name, version in versions().items()},
    }


def _digest(files: Iterable[Iterable[Path]]) -> str:
    """Of names, sizes and times of files, by image."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for of_image in files for file in of_image]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


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
    """The differences of each adapted model from the base in the evaluators' headlines, with 95 % intervals by the
    paired bootstrap over images: `difference/<data>/<key>`, `…/low` and `…/high`; of several models
    `difference/<name>/<data>/<key>`."""
    base, *adapted = results
    images = len(base.records)
    if base.model.name != BASE or draws == 0 or images < 2:
        return {}
    parts = model_parts([result.model.name for result in results])
    metrics: dict[str, float] = {}
    for result in adapted:
        for key, found in paired_differences(result.headline(), base.headline(), images, draws).items():
            name = f"difference/{MetricKey.of(key, data, parts[result.model.name])}"
            metrics |= {name: found.value, f"{name}/low": found.low, f"{name}/high": found.high}
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _calibrate(
    runs: Sequence[ModelRun],
    images: AnnotatedImages,
    store: RecordStore,
    fabric: Fabric,
    say: Callable[[str], None],
    progress: Progress,
) -> Mapping[str, Calibration]:
    """The calibration of each model's first looks, in every process the same."""
    calibrator = Calibrator({run.name: run.predictor for run in runs}, images, runs[0].task.protocol)
    every = calibrator.positions
    missing, _ = fabric.broadcast(store.missing(every) if fabric.is_global_zero else None)
    if missing:
        some = f"{len(missing)} of " if len(missing) < len(every) else ""
        say(f"first looks: calibrated on {some}{len(every)} tuning images, by every model's exact predictions")
    calibrator.record(store, missing[fabric.global_rank :: fabric.world_size], progress)
    fabric.barrier()
    return calibrator.calibrations(store)


def _own_positions(run: ModelRun, fabric: Fabric, say: Callable[[str], None]) -> list[int]:
    """The images of a run that this process records: every world-size-th one of those without a record.

    So none has much more to do than another, which would wait for it at the end, longer than NCCL lets a process wait.
    """
    # read by one process: another one that has begun would change what is missing
    found = run.store.missing(run.positions) if fabric.is_global_zero else None
    missing, damaged = fabric.broadcast(found)
    if damaged or len(missing) < len(run.positions):
        because = f", {damaged} of them for a damaged record" if damaged else ""
        say(f"{run.name}: goes on with {len(missing)} of {len(run.positions)} images{because}")
    return missing[fabric.global_rank :: fabric.world_size]


def _result(model: EvalModel, run: ModelRun) -> EvalResult:
    records = run.store.read_all(run.positions)
    prompts = sum(len(run.task.asked(position)) for position in run.positions)
    return EvalResult(model, run.evaluators, records, evaluate_records(run.evaluators, records, prompts))


def _not_adapted_to(data: DataOptions, task: EvalTask) -> list[str]:
    """Groups and granularities none of whose categories has annotations and prompts that training may use."""
    categories = task.split.images.categories
    trained = set(
        vocabulary_ids(data.prompts, categories, "data.prompts") if data.prompts else (c.id for c in categories)
    )
    for names in (data.annotated, [name for name, weight in (data.prompt_weights or {}).items() if weight]):
        named = {i for name in names for i in task.groups.get(name, ())}
        trained &= named | {c.id for c in categories if c.granularity in names} if names else trained
    return [name for name, ids in task.groups.items() if trained.isdisjoint(ids)]
