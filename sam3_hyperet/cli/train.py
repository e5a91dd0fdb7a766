"""`tools/train.py`: train, then score the base and the adapted model, and write the report."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.warnings import PossibleUserWarning
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.compare import compare, print_headline, versions
from sam3_hyperet.cli.model import open_model, set_threads
from sam3_hyperet.cli.run_folder import ADAPTER, base_trains, load_best, save_trained, say_what_is_next, start_of_run
from sam3_hyperet.cli.submit import parse_runs, submit_runs
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.sources import DataOptions, augmentation, prompt_sampler, training_images
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.predictor import check_prompts
from sam3_hyperet.evaluation.runner import Protocol
from sam3_hyperet.losses.alignment import AlignmentLoss
from sam3_hyperet.losses.grounding import GroundingLoss, LossOptions
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.inject import inject, parameter_report
from sam3_hyperet.modeling.radius_probe import RadiusProbe
from sam3_hyperet.options import read_options
from sam3_hyperet.training.batches import training_batches, tuning_batches
from sam3_hyperet.training.cache import CacheOptions, cached_trunk, check_frozen_trunk
from sam3_hyperet.training.loop import FitResult, TrainOptions, fit
from sam3_hyperet.training.optimizer import OptimizerOptions, build_optimizer
from sam3_hyperet.training.preemption import Preemption
from sam3_hyperet.training.radius_control import RadiusControl, RadiusOptions, radius_control
from sam3_hyperet.training.stages import STAGES, StageOptions, set_stage
from sam3_hyperet.training.state import FILE as STATE_FILE
from sam3_hyperet.training.state import previous_state


def main(argv: list[str] | None = None, tool: str = "train") -> Path:
    """Run the tool, or submit its runs to Slurm; returns the run's folder, or that of all runs of a sweep."""
    configs, folder = parse_runs(tool, argv)
    if configs[0].launcher.name == "local":
        return train(configs[0])
    for config in configs:
        start_of_run(OmegaConf.to_container(config))
    return submit_runs(f"{__name__}:{train_job.__name__}", configs, folder)


def train_job(config: DictConfig) -> None:
    """`train` as a job on a cluster runs it: an error of the user is one line of its log."""
    exit_cleanly(train)(config)


def train(config: DictConfig) -> Path:
    """Train as the configuration says.

    Returns:
        The run's folder: config.yaml, metrics.jsonl, TensorBoard files, the adapter (or, where the base trains as well,
        the weights) of the best and of the last step, and with `evaluate=true` metrics.json and report.html.
    """
    console = Console(highlight=False)
    values = OmegaConf.to_container(config, resolve=True)
    options = read_options(TrainOptions, values["train"], "train")
    data = read_options(DataOptions, values["data"], "data")
    optim = read_options(OptimizerOptions, values["optim"], "optim")
    losses = read_options(LossOptions, values["loss"], "loss")
    radius_options = read_options(RadiusOptions, values["radius"], "radius")
    protocol = read_options(Protocol, values["protocol"], "protocol")
    run_dir, resume = start_of_run(values)
    stage_options = read_options(StageOptions, values["stage"], "stage")
    if type(values["seed"]) is not int or values["seed"] < 0:
        raise ConfigError(f"seed={values['seed']!r}; expected an integer from 0")
    if type(values["evaluate"]) is not bool:
        raise ConfigError(f"evaluate={values['evaluate']!r}; expected true or false")
    set_threads(options.threads)
    fabric = _fabric(options, stage_options.last)
    fabric.launch()
    console.quiet = not fabric.is_global_zero
    torch.manual_seed(values["seed"] + fabric.global_rank)

    model = open_model(values["model"]).to(fabric.device)
    hyperet = HyperETConfig.from_mapping(values["hyperet"])
    if not hyperet.is_empty:
        inject(model, hyperet)
    stage = set_stage(model, stage_options.number, stage_options.layers)
    report = parameter_report(model)
    radius = radius_control(model, radius_options, options.max_steps)
    with fabric.rank_zero_first():  # it may draw the pictures
        dataset, tune = _datasets(data, options, resolution(model), values["seed"], console)
    check_prompts(model, [category.name for category in dataset.images.categories])
    _check_optimizer(model, optim, options)
    stage_options.steps(options.max_steps)
    _check_cache(model, values, stage_options, dataset)
    if fabric.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        if not resume:
            for state in (run_dir / STATE_FILE, previous_state(run_dir / STATE_FILE)):
                state.unlink(missing_ok=True)  # of an earlier run, which this one replaces
        (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
        (run_dir / "versions.json").write_text(json.dumps(versions(), indent=1))
        console.print(str(stage))
        console.print(f"added {report['added']:,} of {report['total']:,} parameters ({report['added_ratio']:.3%})")
    with Preemption(fabric, console.print, f"to go on, run the same command with run_dir={run_dir}") as preemption:
        result = _fit(
            fabric,
            model,
            dataset,
            tune,
            options,
            optim,
            losses,
            stage_options,
            values,
            run_dir,
            resume,
            preemption.requested,
            radius,
        )
    console.print(
        f"{result.steps} steps in {result.seconds:.0f} s, {result.skipped_steps} skipped; best step {result.best_step}"
    )
    trainable = parameter_report(model)["trainable"]
    if fabric.is_global_zero and values["evaluate"]:
        load_best(model, run_dir, lambda: open_model(values["model"]))
        base = None
        if base_trains(model) and values["model"].get("checkpoint") != "random":
            base = open_model(values["model"]).to(fabric.device)
        metrics = compare(
            model,
            data,
            protocol,
            run_dir,
            config_text=OmegaConf.to_yaml(config, resolve=True),
            extra={
                "params/trainable": trainable,
                "train/steps": result.steps,
                "train/seconds": result.seconds,
                "train/skipped_steps": result.skipped_steps,
                "train/best_step": result.best_step,
            },
            console=console,
            adapter=run_dir / ADAPTER["best"] if hasattr(model, "hyperet_config") else None,
            base=base,
        )
        print_headline(console, metrics)
    say_what_is_next(console, run_dir)
    return run_dir


def _fit(
    fabric: Fabric,
    model: host.Sam3Image,
    dataset: ConceptPrompts,
    tune: ConceptPrompts | None,
    options: TrainOptions,
    optim: OptimizerOptions,
    losses: LossOptions,
    stages: StageOptions,
    values: dict[str, object],
    run_dir: Path,
    resume: Path | None,
    interrupted: Callable[[], bool],
    radius: RadiusControl | None,
) -> FitResult:
    loss = GroundingLoss(model.transformer.decoder.num_queries, losses, model.matcher, AlignmentLoss(losses))
    batches = training_batches(
        dataset,
        options.batch_size,
        options.workers,
        values["seed"],
        fabric.device,
        fabric.global_rank,
        fabric.world_size,
    )
    cache = read_options(CacheOptions, values["cache"], "cache")
    with contextlib.ExitStack() as stack:
        if cache.folder:
            stack.enter_context(cached_trunk(model, cache, _views(dataset, tune), options.precision))
        probe = stack.enter_context(RadiusProbe(model)) if hasattr(model, "hyperet_config") else None
        return fit(
            fabric,
            model,
            loss,
            batches,
            tuning_batches(tune, options.batch_size, fabric.device) if tune else lambda: iter(()),
            options,
            optim,
            run_dir,
            lambda which: save_trained(model, run_dir, which),
            resume=resume,
            tensorboard=values["logger"]["tensorboard"],
            observe=lambda: (probe.latest() if probe else {}) | (radius.figures if radius else {}),
            interrupted=interrupted,
            radius=radius,
            stages=stages,
        )


def _views(dataset: ConceptPrompts, tune: ConceptPrompts | None) -> int:
    """How many different pictures the trunk will see; 0 for ever new ones."""
    augment = dataset.augment
    views = augment.views if augment is not None and augment.is_random else 1
    return len(dataset) * views + (len(tune) if tune and views else 0)


def _check_cache(
    model: host.Sam3Image, values: dict[str, object], stages: StageOptions, dataset: ConceptPrompts
) -> None:
    """Learn that it cannot be before anything is written."""
    if not read_options(CacheOptions, values["cache"], "cache").folder:
        return
    check_frozen_trunk(model)
    if stages.last == STAGES[-1]:
        raise ConfigError("cache.folder: stage 3 trains the image trunk, whose features then change; use no cache")
    if not _views(dataset, None):
        raise ConfigError(
            "cache.folder: every epoch shows new random views; set data.views to how many of a picture are kept, or "
            "data.flip=0 data.zoom=1"
        )


def _datasets(
    data: DataOptions, options: TrainOptions, side: int, seed: int, console: Console
) -> tuple[ConceptPrompts, ConceptPrompts | None]:
    if not options.tune_every:
        data = replace(data, tune_images=0)
    images = training_images(data, "train")
    console.print(images.summary())
    dataset = ConceptPrompts(images, side, prompt_sampler(data, images), augmentation(data), seed)
    if not options.tune_every:
        return dataset, None
    held_out = training_images(data, "tune")
    return dataset, ConceptPrompts(held_out, side, prompt_sampler(data, held_out), None, seed)


def _check_optimizer(model: host.Sam3Image, optim: OptimizerOptions, options: TrainOptions) -> None:
    """Learn that it cannot be before anything is written."""
    try:
        build_optimizer(model, optim, options.max_steps)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"optim: {error}") from error


def _fabric(options: TrainOptions, stage: int) -> Fabric:
    several, strategy = options.nodes * options.devices > 1, options.strategy
    if several and strategy == "auto" and stage > 1:
        strategy = "ddp_find_unused_parameters_true"  # the base has some, such as those of prompts by points
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The `srun` command is available", PossibleUserWarning)  # but not wanted
            return Fabric(
                accelerator=options.accelerator,
                devices=options.devices,
                num_nodes=options.nodes,
                strategy=strategy,
                precision=options.precision,
            )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"train.accelerator, train.devices, train.nodes, train.strategy or train.precision: {error}"
        ) from error
