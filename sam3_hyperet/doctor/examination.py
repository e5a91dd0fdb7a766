"""All checks of a setup, in order."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sam3_hyperet.data.options import DataOptions, KeptOptions, RehearsalOptions
from sam3_hyperet.doctor import cluster, installation, machine, weights
from sam3_hyperet.doctor.findings import Examination, Finding, ok
from sam3_hyperet.doctor.sizes import Sizes
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.config import CONTROLS_BY_PEFT, HyperETConfig, ModelOptions
from sam3_hyperet.training.choice import Rule
from sam3_hyperet.training.loaders import MaskLoad, loader_processes, mask_load, usable_cores
from sam3_hyperet.training.options import FSDP, CacheOptions, FitOptions

if TYPE_CHECKING:
    from sam3_hyperet.doctor.splits import Splits
    from sam3_hyperet.doctor.trial import Trial

_SIDES = {"tiny": 128, "tiny_levels": 128, "large": 1008}


@dataclass(frozen=True)
class Setup:
    """A run before it begins.

    adapter: a file to check against the base; None for the run's own adapters at their start.
    tries: whether the model is built and tried; None: unless that takes minutes, as of `large` on a CPU.
    is_submitted: the machine that runs it is another one, so that nothing is asked of this one's devices.
    more_data, rehearsal: what is trained on beside `data`.
    kept, protocol: what is measured in the end, and how.
    open_folder: says what there is to go on from in `run_dir`. Raises a UserError if it is not for this run.
    """

    model: ModelOptions
    hyperet: HyperETConfig
    data: DataOptions
    fit: FitOptions
    loss: LossOptions
    cache: CacheOptions
    launcher: SlurmOptions
    run_dir: Path
    seed: int = 0
    evaluate: bool = True
    adapter: Path | None = None
    more_data: Mapping[str, DataOptions] = field(default_factory=dict)
    rehearsal: RehearsalOptions = field(default_factory=RehearsalOptions)
    kept: KeptOptions = field(default_factory=KeptOptions)
    protocol: Protocol = field(default_factory=Protocol)
    tries: bool | None = None
    is_submitted: bool = False
    open_folder: Callable[[], str] | None = None


def examine(setup: Setup) -> Iterator[Finding]:
    """The rows of all checks, each as soon as it is known."""
    examination = Examination()
    check, train = examination.check, setup.fit.train
    yield from check("python", installation.python_rows)
    extras = ["peft"] if setup.hyperet.adapter in CONTROLS_BY_PEFT else []
    yield from check("packages", lambda: installation.package_rows(extras))
    yield from check("torchvision", installation.torchvision_rows)
    yield from check("imports", installation.import_rows)
    yield from check("sam3", installation.sam3_rows, "imports")
    if setup.launcher.name == "slurm":
        yield from cluster.rows(examination, setup.launcher, setup.run_dir)
    gpus = machine.Gpus()

    def gpu_rows() -> Iterator[Finding]:
        nonlocal gpus
        gpus = machine.find_gpus()
        return machine.gpu_rows(train, gpus)

    if not setup.is_submitted:
        yield from check("gpu", gpu_rows, "imports")
        yield from check("precision", lambda: machine.precision_rows(train, gpus), "gpu")
    else:
        job = setup.launcher
        cores, on_gpu = job.cpus_per_task * job.tasks_per_node, job.has_gpus
        workers = loader_processes(train, _side(setup.model), on_gpu=on_gpu, cores=job.cpus_per_task)
        yield from check("cores", lambda: machine.core_rows(train, workers, cores, "of launcher.cpus_per_task"))
    yield from _of_model(setup, examination, gpus)


def _of_model(setup: Setup, examination: Examination, gpus: machine.Gpus) -> Iterator[Finding]:
    """The checks that need sam3: sizes, disk, weights, data, and the trial."""
    check, fit = examination.check, setup.fit
    sizes = Sizes(setup.model, setup.hyperet, fit)
    yield from check("sizes", sizes.rows, "sam3")
    yield from check("options", sizes.option_rows, "sizes")
    yield from check("disk", lambda: machine.disk_rows("disk", setup.run_dir, sizes.bytes_written, "another run_dir"))
    if open_folder := setup.open_folder:
        yield from check("run folder", lambda: [ok("run folder", open_folder())], "sam3")
    if setup.is_submitted:
        yield from check("memory", lambda: sizes.job_memory_rows(setup.launcher), "sizes")
    else:
        yield from check("memory", lambda: sizes.memory_rows(gpus), "sizes", "gpu")
    if "sam3" not in examination.passed:
        names = ("checkpoint", "data", "model")
        yield from (Finding(name, "skipped", "needs sam3") for name in names)
        return
    from sam3_hyperet.doctor.splits import Splits, small

    yield from weights.rows(examination, setup.model, lambda: sizes.model, "sam3", "sizes")
    draws = "scenes" in [one.format for one in (setup.data, *setup.more_data.values())]
    with tempfile.TemporaryDirectory() if draws else contextlib.nullcontext("") as folder:
        splits = Splits(small(setup.data, Path(folder)), tune=bool(fit.train.validate_every))
        yield from _of_data(setup, examination, sizes, splits)
        sets = [splits]
        for name, data in setup.more_data.items():
            more = Splits(small(data, Path(folder) / name), tune=False, key=f"more_data.{name}")
            yield from _of_more_data(setup, examination, sizes, more)
            sets.append(more)
        if setup.is_submitted:
            yield Finding("model", "skipped", "the job runs elsewhere; there, or with trial=true here, it is tried")
        else:
            on_gpu = bool(gpus.names) and fit.train.accelerator != "cpu"
            yield from _of_loading(setup, examination, sets, on_gpu)
            yield from _tried(setup, examination, splits, setup.model.name != "large" or on_gpu)


def _of_loading(setup: Setup, examination: Examination, sets: Sequence[Splits], on_gpu: bool) -> Iterator[Finding]:
    """Cores and shared memory for loader processes, whose batches depend on how many instances an image has."""
    check, train, side = examination.check, setup.fit.train, _side(setup.model)
    load = MaskLoad()

    def core_rows() -> Iterator[Finding]:
        nonlocal load
        load = mask_load(one.prompted for one in sets if "train" in one.opened)
        workers = loader_processes(train, side, on_gpu=on_gpu, load=load)
        return machine.core_rows(train, workers, usable_cores(), "for this run")

    def memory_rows() -> Iterator[Finding]:
        workers = loader_processes(train, side, on_gpu=on_gpu, load=load)
        return machine.shared_memory_rows(train, workers, side, load)

    yield from check("cores", core_rows)
    yield from check("shared memory", memory_rows, "cores")


def _side(model: ModelOptions) -> int:
    return model.resolution or _SIDES.get(model.name, 1008)


def _of_data(setup: Setup, examination: Examination, sizes: Sizes, splits: Splits) -> Iterator[Finding]:
    check, root = examination.check, Path(setup.data.root).expanduser()
    if setup.is_submitted and setup.data.format != "scenes" and not root.is_dir():
        yield cluster.unseen("data", root)
        return
    needs = ["sam3"]
    if setup.data.format == "auto":
        yield from check("layout", splits.layout_rows)
        needs.append("layout")
    wanted = ["train", *(["tune"] if setup.fit.train.validate_every else []), *(["val"] if setup.evaluate else [])]
    for split in wanted:
        yield from check(f"data: {split}", partial(splits.rows, split), *needs)
    if setup.fit.train.max_steps is None:

        def length_rows() -> list[Finding]:
            from sam3_hyperet.data.mixture import quotas, share

            weights = [one.weight for one in (setup.data, *setup.more_data.values())]
            part = share(quotas([*weights, *([setup.rehearsal.weight] if setup.rehearsal.names else [])]))[0]
            return [ok("length", setup.fit.of_images(len(splits.opened["train"]) / part).train.length)]

        yield from check("length", length_rows, "data: train")
    yield from check("data: files", splits.file_rows, "data: train")
    yield from check("data: overlap", splits.overlap_rows, *(f"data: {split}" for split in wanted))
    yield from check("prompts", lambda: splits.prompt_rows(sizes.model), "data: train", "sizes")
    if setup.rehearsal.names:
        yield from check("rehearsal", lambda: splits.rehearsal_rows(setup.rehearsal, sizes.model), "prompts")
    if setup.kept.names:
        is_chosen_by = Rule.parse(setup.fit.train.best).names_kept
        for split in (*(["tune"] if is_chosen_by else []), *(["val"] if setup.evaluate else [])):
            of_split = partial(_kept_rows, setup, sizes, splits, split)
            yield from check("kept", of_split, f"data: {split}", "prompts")
    if setup.cache.folder:
        folder = Path(setup.cache.folder).expanduser()

        def rows() -> Iterator[Finding]:
            views = splits.views
            sizes.check_cache(setup.cache, views)
            shown = len(splits.opened["train"]) * views + len(splits.opened.get("tune", ()))
            shown += len(splits.opened.get("rehearsal", ())) * views
            size, remedy = sizes.bytes_of_cache(setup.cache, shown), "cache.dtype=bfloat16, or fewer data.views"
            return machine.disk_rows("feature cache", folder, size, remedy)

        yield from check("feature cache", rows, "sizes", "data: train")


def _kept_rows(setup: Setup, sizes: Sizes, splits: Splits, split: str) -> Iterator[Finding]:
    return splits.kept_rows(split, setup.kept, setup.protocol, sizes.model)


def _of_more_data(setup: Setup, examination: Examination, sizes: Sizes, splits: Splits) -> Iterator[Finding]:
    """Whether a set that is trained on as well can be."""
    check, key, root = examination.check, splits.key, Path(splits.data.root).expanduser()
    if setup.is_submitted and splits.data.format != "scenes" and not root.is_dir():
        yield cluster.unseen(key, root)
        return
    needs = [f"{key}: layout"] if splits.data.format == "auto" else []
    for name in needs:
        yield from check(name, splits.layout_rows)
    yield from check(f"{key}: train", partial(splits.rows, "train"), "sam3", *needs)
    yield from check(f"{key}: files", splits.file_rows, f"{key}: train")
    yield from check(f"{key}: prompts", lambda: splits.prompt_rows(sizes.model), f"{key}: train", "sizes")


def _tried(setup: Setup, examination: Examination, splits: Splits, is_quick: bool) -> Iterator[Finding]:
    """The trial, if it is wanted; an adapter file is compared with its base in any case."""
    check, tries = examination.check, is_quick if setup.tries is None else setup.tries
    if setup.fit.train.strategy == FSDP:
        yield Finding("model", "skipped", f"train.strategy={FSDP} shares it out among processes; here is one")
        return
    if not tries and setup.adapter is None:
        why = "trial=false" if setup.tries is False else "a step of `large` takes minutes on a CPU; trial=true tries it"
        yield Finding("model", "skipped", why)
        return
    trials: list[Trial] = []

    def build() -> Iterator[Finding]:
        from sam3_hyperet.doctor.trial import open_trial

        trial, finding = open_trial(setup.model, setup.fit)
        trials.append(trial)
        yield finding

    yield from check("model", build, "sizes", "memory", "precision", "checkpoint")
    adapter = lambda: trials[0].adapter_rows(setup.adapter, setup.hyperet)  # noqa: E731
    yield from check("adapter", adapter, "model")
    if tries:
        forward = lambda: trials[0].forward_rows(splits.opened["train"], setup.fit.train.precision)  # noqa: E731
        yield from check("forward pass", forward, "adapter", "data: files")
        step = lambda: trials[0].step_rows(  # noqa: E731
            splits.opened["train"], splits.data, setup.loss, setup.fit, setup.seed
        )
        yield from check("training step", step, "forward pass", "prompts", "options")
