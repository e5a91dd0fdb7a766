"""One run of a study: train, choose the dial on tuning images, score on validation images, leave a row."""

import contextlib
import gc
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from sam3_hyperet.ablation.failures import recorded
from sam3_hyperet.ablation.plan import GAIN, LOST
from sam3_hyperet.ablation.rows import RUNS, TRIALS, cell, leave_row, row_folder
from sam3_hyperet.cli.ablation_configs import RECIPE, recipe_file, weights_digest
from sam3_hyperet.cli.ablation_failures import reason_of
from sam3_hyperet.cli.ablation_scores import Job, asked_tasks, open_tasks, scored
from sam3_hyperet.cli.ablation_study import LOG
from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.pretrain import save_best
from sam3_hyperet.cli.recognition import recognised
from sam3_hyperet.cli.run_options import RunOptions, read_run
from sam3_hyperet.cli.train import train
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.peak_memory import PeakMemory
from sam3_hyperet.files import Manifest, sole_use, write_json
from sam3_hyperet.modeling.config import CONTROLS_OF_BASE
from sam3_hyperet.precision import device_of
from sam3_hyperet.reading import read_json
from sam3_hyperet.training.choice import Rule
from sam3_hyperet.training.loop import TrainingFailed
from sam3_hyperet.training.run_files import ADAPTER, STATE_FILE
from sam3_hyperet.training.state import previous_state, read_state
from sam3_hyperet.version import __version__

JOB = "ablation"
"""The key of a configuration that holds what a `Job` has."""
_ABOUT = "ablation.json"


def run_job(config: DictConfig) -> None:
    """A run of a study as a job on a cluster runs it: an error of the user is one line of its log."""
    _as_job(config, lambda: run(config))


def run(config: DictConfig) -> dict[str, str]:
    """Make one run, or finish one that was interrupted; returns its row, which is then in its row file.

    What training prints goes to log.txt in the run's folder. Raises ConfigError where another process has the folder.
    """
    gc.collect()  # models of the run before; of one that failed, its traceback had them
    config = config.copy()
    job = Job(**plain(config.pop(JOB)))
    folder = Path(config.run_dir)
    with sole_use(folder), _log(folder):
        config = recognised(config, print)
        options = read_run(plain(config))
        started, before, measured = time.perf_counter(), 0.0, dict[str, object]()
        try:
            asked = asked_tasks(options, config, job, folder)
            gc.collect()  # the base that was asked
            asking = time.perf_counter() - started
            trained = _trained(config, job, folder)
            started, before = time.perf_counter(), asking + trained["seconds"]
            measured = {name: trained[name] for name in ("steps", "best_step", "train_seconds", "peak_gib")}
            measured |= scored(asked or open_tasks(options, job), options, config, job, folder)
        except TrainingFailed as error:
            if not job.is_trial:
                raise
            print(f"{error}; so these options are not chosen")  # nor is a gain in the row
        values = {
            **job.cells,
            **_setup(options),
            **measured,
            "seconds": before + time.perf_counter() - started,
            "version": __version__,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "weights": weights_digest(options.model)[:12],
            "identity": job.identity,
        }
        row = {name: cell(value) for name, value in values.items()}
        layout = TRIALS if job.is_trial else RUNS
        if job.is_trial:
            row = TRIALS.part_of(row, (GAIN, LOST))
        leave_row(row_folder(Path(job.folder), layout), folder.name, row)
        if not job.keep:
            _clean(folder)
    return row


def make_base_job(config: DictConfig) -> None:
    """A base as a job on a cluster makes it."""
    config = config.copy()
    job = config.pop(JOB)
    _as_job(config, lambda: make_base(config, Path(job.file), job.recipe))


@exit_cleanly
def _as_job(config: DictConfig, make: Callable[[], object]) -> None:
    """Make what a folder is of, which then tells why it failed, if it did."""
    folder = Path(config.run_dir)
    with sole_use(folder), recorded(folder, reason_of):
        make()


def make_base(config: DictConfig, file: Path, recipe: str) -> None:
    """Pretrain a base by its recipe, and put its best weights, in half precision, at `file`.

    A run that was interrupted or failed goes on, unless it was of another recipe; `recipe` is the digest of this one.
    """
    folder = Path(config.run_dir)
    with sole_use(folder), _log(folder):
        try:
            read_run(plain(config)).check_same(folder, str(folder))
        except ConfigError as error:
            print(f"begun anew: {error}")
            config.resume = "never"
        save_best(train(config), file)
        write_json(recipe_file(file), {RECIPE: recipe})


def _trained(config: DictConfig, job: Job, folder: Path) -> dict[str, Any]:
    """Train, unless the folder has the adapter already; returns what the row says of it."""
    file = folder / _ABOUT
    about = read_json(file) if file.is_file() else {}
    if about.get("trained") == job.trained and "seconds" in about and (folder / ADAPTER["best"]).is_file():
        print(f"trained already: {folder / ADAPTER['best']}")
        return dict(about)
    config.resume = "auto" if about.get("trained") == job.trained else "never"
    if not Rule.parse(config.train.best).names_kept:
        config.kept = {}  # is for the scores, and nothing that training asks for
    before = about.get("so_far", 0.0) if config.resume == "auto" else 0.0
    Manifest(folder).claim(_ABOUT)
    write_json(file, {"trained": job.trained, "so_far": before})
    started = time.perf_counter()
    peak = PeakMemory(torch.device(device_of(config.train.accelerator)))
    try:
        train(config)
    except BaseException:
        write_json(file, {"trained": job.trained, "so_far": before + time.perf_counter() - started})
        raise
    progress = read_state(folder / STATE_FILE)["progress"]
    about = {
        "trained": job.trained,
        "steps": progress["step"],
        "best_step": progress["best_step"] or progress["step"],  # without validation, the last one is kept
        "train_seconds": progress["seconds"] - progress["validation_seconds"],
        "seconds": before + time.perf_counter() - started,
        "peak_gib": peak.bytes() / 2**30,
    }
    write_json(file, about)
    return about


def _setup(options: RunOptions) -> dict[str, object]:
    """The cells of what is injected; a control has no geometry, and of the base's own parameters no sites."""
    hyperet = asdict(options.hyperet)
    own = ("geometry", "structure", "gate") if hyperet["adapter"] == "hyperet" else ()
    sites = "" if hyperet["adapter"] in CONTROLS_OF_BASE else "+".join(options.hyperet.resolved_sites)
    return {"adapter": hyperet["adapter"], "sites": sites, **{name: hyperet.get(name, "none") for name in own}}


def _clean(folder: Path) -> None:
    """Remove what a finished run needs no longer: its state, its last step, its records."""
    manifest = Manifest(folder)
    records = [name for name in manifest.names if name.startswith("records/")]
    manifest.remove(STATE_FILE, previous_state(Path(STATE_FILE)).name, ADAPTER["last"], "tensorboard", *records)
    with contextlib.suppress(OSError):  # it has something else, or is not there
        (folder / "records").rmdir()


@contextlib.contextmanager
def _log(folder: Path) -> Iterator[None]:
    """Context in which what is printed, and the traceback of an error, goes to the end of the folder's log."""
    Manifest(folder).claim(LOG)
    with (folder / LOG).open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        try:
            yield
        except Exception:
            traceback.print_exc(file=file)
            raise
