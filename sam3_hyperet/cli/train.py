"""`tools/train.py`: train, then score the base and the adapted model, and write the report."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.compare import compare_and_report
from sam3_hyperet.cli.processes import make_fabric
from sam3_hyperet.cli.run_options import RunOptions, read_run
from sam3_hyperet.cli.submit import parse_runs, submit_runs
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.sources import RunSplits, augmentation, open_run, prompt_sampler
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.models import beside_base, versions
from sam3_hyperet.files import remove_leftovers, replacing
from sam3_hyperet.inference.predictor import check_prompts
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import HyperETConfig, adapter_config
from sam3_hyperet.modeling.inject import inject
from sam3_hyperet.modeling.opening import open_model, set_threads
from sam3_hyperet.modeling.parameters import parameter_report
from sam3_hyperet.modeling.probe import RadiusProbe
from sam3_hyperet.training.batches import training_batches, val_batches
from sam3_hyperet.training.curvature_schedule import RadiusControl, radius_control
from sam3_hyperet.training.distributed import FSDP, sharding_strategy
from sam3_hyperet.training.feature_cache import cached_trunk, check_frozen_trunk
from sam3_hyperet.training.loop import FitResult, fit
from sam3_hyperet.training.optimizer import build_optimizer
from sam3_hyperet.training.options import STAGES, OptimizerOptions, TrainOptions
from sam3_hyperet.training.run_folder import (
    ADAPTER,
    base_trains,
    load_best,
    save_trained,
    say_what_is_next,
    start_of_run,
)
from sam3_hyperet.training.signals import Preemption
from sam3_hyperet.training.stages import set_stage
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
    options = read_run(values)
    run_dir, resume = start_of_run(values)
    set_threads(options.train.threads)
    fabric = _fabric(options.train, options.stage.last)
    fabric.launch()
    console.quiet = not fabric.is_global_zero

    with fabric.rank_zero_first():  # it may draw the pictures
        splits = open_run(options.data, tune=bool(options.train.tune_every), evaluate=options.evaluate)
    torch.manual_seed(options.seed)  # the same model in every process …
    model = _adapted_model(values["model"], options.hyperet, fabric.device)
    if fabric.global_rank:
        torch.manual_seed(options.seed + fabric.global_rank)  # … and other draws while it trains
    stage = set_stage(model, options.stage.number, options.stage.layers)
    report = parameter_report(model)
    radius = radius_control(model, options.radius, options.train.max_steps)
    pictures = _pictures(splits, options, resolution(model), console)
    check_prompts(model, [category.name for category in pictures.training.images.categories])
    _check_optimizer(model, options.optim, options.train)
    _check_cache(model, options, pictures)
    if fabric.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run_dir)
        if not resume:
            for state in (run_dir / STATE_FILE, previous_state(run_dir / STATE_FILE)):
                state.unlink(missing_ok=True)  # of an earlier run, which this one replaces
        with replacing(run_dir / "config.yaml") as file:  # a killed run goes on only if its configuration is whole
            file.write_text(OmegaConf.to_yaml(config, resolve=True))
        (run_dir / "versions.json").write_text(json.dumps(versions(), indent=1))
        console.print(str(stage))
        console.print(f"added {report['added']:,} of {report['total']:,} parameters ({report['added_ratio']:.3%})")
    with Preemption(fabric, console.print, f"to go on, run the same command with run_dir={run_dir}") as preemption:
        result = _fit(fabric, model, pictures, options, radius, run_dir, resume, preemption.requested)
    console.print(
        f"{result.steps} steps in {result.seconds:.0f} s, {result.skipped_steps} skipped; best step {result.best_step}"
    )
    trainable = parameter_report(model)["trainable"]
    if splits.evaluation is not None:
        run_dir = Path(fabric.broadcast(str(run_dir)))  # every process loads what the first one has written
        if options.train.strategy == FSDP:  # the model that trained is split over the processes
            model = _adapted_model(values["model"], options.hyperet, fabric.device)
            set_stage(model, options.stage.number)
        load_best(model, run_dir, lambda: open_model(values["model"]))
        base = None
        if base_trains(model) and values["model"].get("checkpoint") != "random":
            base = open_model(values["model"]).to(fabric.device)
        models = beside_base(model, base, run_dir / ADAPTER["best"] if adapter_config(model) is not None else None)
        compare_and_report(
            models,
            options.data,
            splits.evaluation,
            options.protocol,
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
            fabric=fabric,
        )
    say_what_is_next(console, run_dir)
    return run_dir


@dataclass(frozen=True)
class _Pictures:
    """What a run trains on, and what it measures its loss on, if it does."""

    training: ConceptPrompts
    tuning: ConceptPrompts | None

    @property
    def views(self) -> int:
        """How many different pictures the trunk will see; 0 for ever new ones."""
        augment = self.training.augment
        views = augment.views if augment is not None and augment.is_random else 1
        return len(self.training) * views + (len(self.tuning) if self.tuning and views else 0)


def _pictures(splits: RunSplits, options: RunOptions, side: int, console: Console) -> _Pictures:
    data, images, held_out = options.data, splits.training, splits.tuning
    console.print(images.summary())
    training = ConceptPrompts(images, side, prompt_sampler(data, images), augmentation(data), options.seed)
    if held_out is None:
        return _Pictures(training, None)
    return _Pictures(training, ConceptPrompts(held_out, side, prompt_sampler(data, held_out), None, options.seed))


def _adapted_model(values: dict[str, object], hyperet: HyperETConfig, device: torch.device) -> host.Sam3Image:
    model = open_model(values).to(device)
    return model if hyperet.is_empty else inject(model, hyperet)


def _fit(
    fabric: Fabric,
    model: host.Sam3Image,
    pictures: _Pictures,
    options: RunOptions,
    radius: RadiusControl | None,
    run_dir: Path,
    resume: Path | None,
    interrupted: Callable[[], bool],
) -> FitResult:
    train, tune = options.train, pictures.tuning
    loss = GroundingLoss(model, options.loss)

    def batches(step: int) -> Iterator[host.BatchedDatapoint]:
        return training_batches(
            pictures.training,
            train.batch_size,
            step=step,
            seed=options.seed,
            device=fabric.device,
            workers=train.workers,
            accumulate=train.accumulate,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )

    with contextlib.ExitStack() as stack:
        if train.prompts_at_once:
            stack.enter_context(shared_encoding([model]))  # between the passes of a picture
        if options.cache.folder:
            stack.enter_context(cached_trunk(model, options.cache, pictures.views, train.precision))
        probe = stack.enter_context(RadiusProbe(model)) if adapter_config(model) is not None else None
        return fit(
            fabric,
            model,
            loss,
            batches,
            lambda: val_batches(tune, train.batch_size, fabric.device) if tune else iter(()),
            train,
            options.optim,
            run_dir,
            lambda which: save_trained(model, run_dir, which),
            resume=resume,
            logger=options.logger,
            observe=lambda: {
                **(probe.latest() | probe.histograms() if probe else {}),
                **(radius.figures if radius else {}),
            },
            interrupted=interrupted,
            radius=radius,
            stages=options.stage,
        )


def _check_cache(model: host.Sam3Image, options: RunOptions, pictures: _Pictures) -> None:
    """Learn that it cannot be before anything is written."""
    if not options.cache.folder:
        return
    check_frozen_trunk(model)
    if options.stage.last == STAGES[-1]:
        raise ConfigError("cache.folder: stage 3 trains the image trunk, whose features then change; use no cache")
    if not pictures.views:
        raise ConfigError(
            "cache.folder: every epoch shows new random views; set data.views to how many of a picture are kept, or "
            "data.flip=0 data.zoom=1"
        )


def _check_optimizer(model: host.Sam3Image, optim: OptimizerOptions, options: TrainOptions) -> None:
    """Learn that it cannot be before anything is written."""
    try:
        build_optimizer(model, optim, options.max_steps)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"optim: {error}") from error


def _fabric(options: TrainOptions, stage: int) -> Fabric:
    processes, strategy = options.nodes * options.devices, options.strategy
    if strategy == FSDP:
        strategy = sharding_strategy(processes)
    elif processes > 1 and strategy == "auto" and stage > 1:
        strategy = "ddp_find_unused_parameters_true"  # the base has some, such as those of prompts by points
    return make_fabric(
        "train.accelerator, train.devices, train.nodes, train.strategy or train.precision",
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy=strategy,
        precision=options.precision,
    )
