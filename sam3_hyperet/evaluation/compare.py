"""Any number of models on one split: their records, metrics, and what is said of them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_fabric import Fabric

from sam3_hyperet.choices import KEPT
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.against_exact import difference_line, exact_runs, minus_exact, unmeasured_line
from sam3_hyperet.evaluation.bootstrap import FEWEST_IMAGES
from sam3_hyperet.evaluation.cascade import Calibration, Calibrator
from sam3_hyperet.evaluation.kept import ask_base
from sam3_hyperet.evaluation.metric_table import (
    EvalResult,
    all_metrics,
    between,
    differences,
    model_parts,
    own_intervals,
)
from sam3_hyperet.evaluation.metrics.key import MetricKey
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
from sam3_hyperet.evaluation.runner import ModelRun, evaluate_records, open_run
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.files import Manifest
from sam3_hyperet.modeling.fingerprint import model_facts
from sam3_hyperet.precision import precision_text
from sam3_hyperet.training.gathering import from_first, wait_for_all
from sam3_hyperet.wording import count_of

_MANY_IMAGES = 1000  # whose intervals take minutes


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
    every = [*runs, *exact]
    _claim_records(run_dir, runs, fabric)
    if base:
        ask_base(base, data, task, run_dir / RECORDS / KEPT, fabric, resume=resume, say=say, progress=progress)
    of_models, of_split, of_runs = [], {}, []
    if fabric.is_global_zero:
        of_models, of_split = model_facts([run.predictor.model for run in every]), split_facts(data, task)
    calibrations: Mapping[str, Calibration] = {}
    if tuning:
        looks, facts = RecordStore(run_dir / RECORDS / FIRST_LOOKS), {**of_split, "models": of_models[: len(runs)]}
        calibrations = _calibrate(runs, tuning, looks, facts, fabric, resume=resume, say=say, progress=progress)
    if fabric.is_global_zero:  # what is spared decides them, too
        of_runs = [run_facts(run, of_model, of_split) for run, of_model in zip(every, of_models, strict=True)]
    record_runs(every, of_runs, fabric, resume=resume, say=say, progress=progress)
    if not fabric.is_global_zero:
        return None
    found = {
        run.name: _result(model, run, str(of_model["base"]))
        for model, run, of_model in zip(running, runs, of_models, strict=False)
    }
    results = tuple(replace(found.get(model.name, found[running[0].name]), model=model) for model in models)
    metrics, notes = _metrics(data, task, results, say), [*_few_images(task)]
    parts = model_parts([model.name for model in models])
    for run, twin in zip(runs, exact, strict=False):
        changes, spared = minus_exact(run, twin), found[run.name].metrics.get("speed/spared_ratio")
        notes.append(difference_line(run.name, changes, len(twin.positions), spared))
        metrics |= {MetricKey(key, data=data.name, model=parts[run.name]): value for key, value in changes.items()}
    if calibrations and not exact:
        notes += [unmeasured_line(one.model.name, one.metrics["speed/spared_ratio"]) for one in results]
    for note in notes:
        say(note)
    said = [one.line(name, task.protocol) for name, one in calibrations.items()]
    return Comparison(data, task, results, metrics, (*said, *notes))


def _claim_records(run_dir: Path, runs: Sequence[ModelRun], fabric: Fabric) -> None:
    """Claim the folders of the records. Raises ConfigError for one that no evaluation wrote."""
    names = [f"{RECORDS}/{name}" for name in (*(run.name for run in runs), EXACT, FIRST_LOOKS, KEPT)]
    Manifest(run_dir).check(*names)  # in every process, so that none waits for another that has failed
    if fabric.is_global_zero:
        Manifest(run_dir).claim(*names)


def _metrics(data: DataOptions, task: EvalTask, results: Sequence[EvalResult], say: Say) -> dict[str, float]:
    """The metrics of all models, their differences and the intervals."""
    draws, images = task.protocol.bootstrap, len(task.positions)
    if draws and images >= _MANY_IMAGES:
        say(f"metrics, and intervals by {count_of(draws, 'draw')} of {count_of(images, 'image')} …")
    metrics = all_metrics(data, task, results) | differences(data.name, results, draws)
    return metrics | between(data.name, results, draws) | own_intervals(data.name, results, draws)


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


def _calibrate(
    runs: Sequence[ModelRun],
    images: AnnotatedImages,
    store: RecordStore,
    facts: Mapping[str, object],
    fabric: Fabric,
    *,
    resume: bool,
    say: Say,
    progress: Progress,
) -> Mapping[str, Calibration]:
    """Calibrate each model's first looks, by which its run spares prompts from here on; in every process the same.

    facts: what decides the looks beside the images, for the first process.
    """
    calibrator = Calibrator({run.name: run.predictor for run in runs}, images, runs[0].task.protocol)
    every = calibrator.positions

    def begin() -> list[int]:
        of_images = files_digest(map(images.files, range(len(images))))
        if why := store.prepare({**facts, "tuning": of_images}, resume):
            say(why)
        return store.missing(every)[0]

    missing = from_first(fabric, begin)
    if missing:
        some = f"{len(missing)} of " if len(missing) < len(every) else ""
        shown = f"{some}{count_of(len(every), 'tuning image')}"
        say(f"first looks: calibrated on {shown}, by every model's exact predictions")
    calibrator.record(store, missing[fabric.global_rank :: fabric.world_size], progress)
    wait_for_all(fabric)
    calibrations = calibrator.calibrations(store)
    for run in runs:
        run.predictor.spare(calibrations[run.name].spare_below)
        say(calibrations[run.name].line(run.name, run.task.protocol))
    return calibrations


def _result(model: EvalModel, run: ModelRun, base_digest: str) -> EvalResult:
    records = run.store.read_all(run.positions)
    prompts = sum(len(run.task.asked(position)) for position in run.positions)
    metrics = evaluate_records(run.evaluators, records, prompts)
    return EvalResult(model, run.evaluators, records, metrics, base_digest)
