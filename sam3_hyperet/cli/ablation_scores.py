"""The scores of one run of a study: its dial, chosen on tuning images, and its metrics on validation images."""

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from omegaconf import DictConfig

from sam3_hyperet import sam3_host as host
from sam3_hyperet.ablation.plan import GAIN, LOST
from sam3_hyperet.choices import KEPT
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.processes import launched
from sam3_hyperet.cli.run_options import RunOptions
from sam3_hyperet.data.answers import AnsweredImages
from sam3_hyperet.data.sources import Split, open_run
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.compare import compare
from sam3_hyperet.evaluation.dial import choose_dial
from sam3_hyperet.evaluation.kept import ask_base, open_kept
from sam3_hyperet.evaluation.metric_table import model_parts
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.models import BASE, DIALS, EvalModel, at_dial
from sam3_hyperet.evaluation.recording import RECORDS
from sam3_hyperet.evaluation.task import EvalTask, open_task
from sam3_hyperet.evaluation.validation_score import known_metrics, open_validation
from sam3_hyperet.files import Manifest, write_json
from sam3_hyperet.modeling.copies import adapted_copy
from sam3_hyperet.modeling.opening import open_model
from sam3_hyperet.modeling.parameters import parameter_report
from sam3_hyperet.precision import device_of
from sam3_hyperet.reading import read_json
from sam3_hyperet.training.choice import Rule, is_kept
from sam3_hyperet.training.run_files import ADAPTER

Metrics = Mapping[str, float]


def _nothing() -> None:
    """Nothing after each image: the log has no bar."""


_HOW: Mapping[str, Any] = {"say": print, "progress": lambda count: nullcontext(_nothing)}


@dataclass(frozen=True)
class Job:
    """What a configuration of `train` lacks to be a run of a study.

    Attributes:
        cells: those of the row that name the run.
        identity: of the row. trained: of the adapter. base: of what the base scores, by split.
        rule, grid: of the dial.
        metrics: keys by short name; gain, lost: short names.
        folder: of the study.
        is_trial: scored on tuning images alone.
        keep: states and records stay.
    """

    cells: Mapping[str, str]
    identity: str
    trained: str
    base: Mapping[str, str]
    rule: str
    grid: tuple[float, ...]
    metrics: Mapping[str, str]
    gain: str
    lost: str | None
    folder: str
    is_trial: bool
    keep: bool


@dataclass(frozen=True)
class Tasks:
    """Images with prompts: `tuning`, by which the dial is chosen, and `validation`."""

    tuning: EvalTask
    validation: EvalTask


def open_tasks(options: RunOptions, job: Job) -> Tasks:
    """The tasks of a run, of which the base has not been asked.

    Raises ConfigError or DataError for images that cannot be scored.
    """
    splits = open_run(options.data, tune=True, evaluate=True)
    assert splits.tuning is not None
    assert splits.evaluation is not None

    def kept(split: Split, metrics: Iterable[str]) -> AnsweredImages | None:
        needed = any(map(is_kept, metrics))
        return open_kept(options.kept, split, options.protocol, say=print) if needed else None

    tuning, scored = splits.tuning, splits.evaluation
    protocol = replace(options.protocol, bootstrap=0, examples=0)
    return Tasks(
        open_validation(tuning, options.protocol, 0, kept(tuning, Rule.parse(job.rule, "dial").metrics)),
        open_task(scored, protocol, kept(scored, job.metrics.values())),
    )


def asked_tasks(options: RunOptions, config: DictConfig, job: Job, folder: Path) -> Tasks | None:
    """The tasks with the base's answers, where a metric needs them.

    The base is asked before the training, which would be in vain where it finds nothing: then a ConfigError is raised.
    In a trial it is asked about the validation images for this alone.
    """
    rule = Rule.parse(job.rule, "dial")
    if not any(map(is_kept, job.metrics.values())):  # the rule names some of these
        return None
    tasks = open_tasks(options, job)
    base, fabric = _base(options, config)
    for task, claimed, store, metrics in (
        (tasks.tuning, f"{RECORDS}/{DIALS}", f"{RECORDS}/{DIALS}/{KEPT}", rule.metrics),
        (tasks.validation, f"{RECORDS}/{KEPT}", f"{RECORDS}/{KEPT}", job.metrics.values()),
    ):
        if task.kept:
            task = task.on(fabric.device.type)
            Manifest(folder).claim(claimed)
            ask_base(EvalModel(BASE, base), options.data, task, folder / store, fabric, resume=True, **_HOW)
            _check_kept(task, metrics)
    return tasks


def _check_kept(task: EvalTask, metrics: Iterable[str]) -> None:
    """Raise a ConfigError for a metric that the base's answers leave undefined."""
    known, images = known_metrics(task), task.split.name
    for key in filter(is_kept, metrics):
        if key not in known:
            there = ", ".join(sorted(filter(is_kept, known)))
            raise ConfigError(f"no metric {key!r} is measured on the {images} images; there are {there}")
        if math.isnan(known[key]):
            found = f"{key} is undefined: the base's answers on the {images} images show nothing of it"
            remedy = "other kept.names, other thresholds of kept, more kept.images"
            raise ConfigError(f"{found}; expected {remedy}, or a plan of your own without it (docs/ablation.md)")


def scored(tasks: Tasks, options: RunOptions, config: DictConfig, job: Job, folder: Path) -> dict[str, object]:
    """Parameters, the chosen dial, and the metrics that the row has."""
    base, fabric = _base(options, config)
    model = adapted_copy(base, folder / ADAPTER["best"])
    rule = Rule.parse(job.rule, "dial")
    known = _of_base(job, "tune", rule.metrics)
    where = {"base": base, "base_metrics": known, "run_dir": folder, "fabric": fabric}
    front = choose_dial(model, options.data, tasks.tuning, rule, job.grid, **where, **_HOW)
    if known is None:
        _keep_of_base(job, "tune", front.base)
    dial = front.chosen
    assert dial is not None
    print(front.choice())
    row: dict[str, object] = {"parameters": int(parameter_report(model)["added"]), "dial": dial}
    if job.is_trial:
        keys = {name: job.metrics[name] for name in (job.gain, job.lost) if name}
        before, after = (
            {name: found[key] for name, key in keys.items()} for found in (front.base, front.metrics[dial])
        )
        return row | _gained(job, before, {"": after})
    dials = sorted({dial, 1.0} - {0.0})
    models = [EvalModel(f"dial_{one:g}", at_dial(model, one), folder / ADAPTER["best"]) for one in dials]
    of_base = _of_base(job, "val", job.metrics)
    if of_base is None:
        models.insert(0, EvalModel(BASE, base))
    comparison = compare(models, options.data, tasks.validation, folder, fabric, **_HOW)
    assert comparison is not None
    parts = model_parts([one.name for one in models])

    def metrics_of(name: str) -> dict[str, float]:
        where = options.data.name, parts[name]
        return {short: _metric(comparison.metrics, key, *where) for short, key in job.metrics.items()}

    if of_base is None:
        of_base = metrics_of(BASE)
        _keep_of_base(job, "val", of_base)
    at_one = metrics_of("dial_1")
    return row | _gained(job, of_base, {"": metrics_of(f"dial_{dial:g}") if dial else of_base, "@1": at_one})


def _base(options: RunOptions, config: DictConfig) -> tuple[host.Sam3Image, Fabric]:
    """The base, and the fabric of the one process that scores."""
    device = device_of(options.train.accelerator)
    fabric = launched("train.accelerator", accelerator=device, devices=1, nodes=1)
    return open_model(plain(config.model)).to(device), fabric


def _of_base(job: Job, split: str, needed: Iterable[str]) -> Metrics | None:
    """What an earlier run has measured of the base; None where it has not, or not all that is needed."""
    file = _base_file(job, split)
    found = read_json(file) if file.is_file() else {}
    if not found.keys() >= set(needed):
        return None
    return {key: math.nan if value is None else value for key, value in found.items()}


def _keep_of_base(job: Job, split: str, metrics: Metrics) -> None:
    write_json(_base_file(job, split), {key: None if math.isnan(value) else value for key, value in metrics.items()})


def _base_file(job: Job, split: str) -> Path:
    return Path(job.folder) / "bases" / f"{job.base[split]}.json"


def _gained(job: Job, base: Metrics, found: Mapping[str, Metrics]) -> dict[str, float]:
    """The metrics' columns, by suffix of the model; and what is gained and lost against the base."""
    row: dict[str, float] = {}
    models = {**found, "@base": base}
    for short in () if job.is_trial else job.metrics:
        row |= {f"{short}{suffix}": models[suffix][short] for suffix in models}
    for suffix, metrics in (found if job.is_trial else models).items():
        row[f"{GAIN}{suffix}"] = metrics[job.gain] - base[job.gain]
        row[f"{LOST}{suffix}"] = base[job.lost] - metrics[job.lost] if job.lost else 0.0
    return row


def _metric(metrics: Metrics, key: str, data: str, model: str) -> float:
    """A metric of a model: most are of a data set, radii are not. Raises DataError where it was not measured."""
    for name in (MetricKey.of(key, data, model), MetricKey.of(key, model=model)):
        if name in metrics:
            return metrics[name]
    there = sorted(str(one) for one in metrics if str(one).startswith(model))
    raise DataError(f"{data}: no metric {key!r} was measured; there are {', '.join(there):.900}")
