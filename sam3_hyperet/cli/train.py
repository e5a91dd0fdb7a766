"""`tools/train.py`: train, then score the base and the adapted model, and write the report."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.compare import compare, print_headline, versions
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.sources import DataOptions, augmentation, prompt_sampler, training_images
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.evaluation.predictor import check_prompts
from sam3_hyperet.evaluation.runner import Protocol
from sam3_hyperet.losses.grounding import GroundingLoss, LossWeights
from sam3_hyperet.modeling.adapter_file import load_adapter, save_adapter
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.checkpoint import base_state_dict, load_base, save_base
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.inject import inject, parameter_report
from sam3_hyperet.modeling.radius_probe import RadiusProbe
from sam3_hyperet.options import read_options
from sam3_hyperet.training.batches import training_batches, tuning_batches
from sam3_hyperet.training.loop import FitResult, TrainOptions, fit
from sam3_hyperet.training.optimizer import OptimizerOptions, build_optimizer
from sam3_hyperet.training.stages import KEY_LAYERS, set_stage
from sam3_hyperet.training.state import FILE as STATE_FILE

WEIGHTS = {"best": "weights.safetensors", "last": "weights_last.safetensors"}
_DECIDING = ("model", "hyperet", "stage", "data", "loss", "optim", "seed", "train.max_steps", "train.batch_size")
ADAPTER = {"best": "adapter.safetensors", "last": "adapter_last.safetensors"}


@dataclass(frozen=True)
class ModelOptions:
    """Options of `build_model`."""

    name: str = "tiny"
    checkpoint: str | None = None
    resolution: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resolution is not None and type(self.resolution) is not int:
            raise ConfigError(f"model.resolution={self.resolution!r}; expected a number of pixels, or null")
        if type(self.seed) is not int:
            raise ConfigError(f"model.seed={self.seed!r}; expected an integer")


@dataclass(frozen=True)
class StageOptions:
    """Options of `set_stage`."""

    number: int
    layers: tuple[str, ...] = KEY_LAYERS


def open_model(values: Mapping[str, object]) -> host.Sam3Image:
    """The base model, on the CPU, that the section `model` of a configuration describes."""
    options = read_options(ModelOptions, values, "model")
    return build_model(options.name, checkpoint=options.checkpoint, resolution=options.resolution, seed=options.seed)


def set_threads(count: int) -> None:
    """PyTorch's threads, of an option threads=N; 0 leaves its own choice."""
    if type(count) is not int or count < 0:
        raise ConfigError(f"threads={count!r}; expected an integer from 0")
    if count:
        torch.set_num_threads(count)


def main(argv: list[str] | None = None, tool: str = "train") -> Path:
    """Run the tool; returns the run's folder."""
    _, config = parse_command(tool, argv)
    return train(config)


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
    weights = read_options(LossWeights, values["loss"], "loss")
    protocol = read_options(Protocol, values["protocol"], "protocol")
    run_dir = Path(values["run_dir"])
    resume = _state_to_resume(values["resume"], run_dir)
    if resume:
        _check_same_run(values, resume)
    stage_options = read_options(StageOptions, values["stage"], "stage")
    if type(values["seed"]) is not int or values["seed"] < 0:
        raise ConfigError(f"seed={values['seed']!r}; expected an integer from 0")
    if type(values["evaluate"]) is not bool:
        raise ConfigError(f"evaluate={values['evaluate']!r}; expected true or false")
    set_threads(options.threads)
    fabric = _fabric(options)
    fabric.launch()
    torch.manual_seed(values["seed"] + fabric.global_rank)

    model = open_model(values["model"]).to(fabric.device)
    hyperet = HyperETConfig.from_mapping(values["hyperet"])
    if hyperet.resolved_sites:
        inject(model, hyperet)
    stage = set_stage(model, stage_options.number, stage_options.layers)
    report = parameter_report(model)
    dataset, tune = _datasets(data, options, resolution(model), values["seed"], console)
    check_prompts(model, [category.name for category in dataset.images.categories])
    _check_optimizer(model, optim, options)
    if fabric.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        if not resume:
            (run_dir / STATE_FILE).unlink(missing_ok=True)  # of an earlier run, which this one replaces
        (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
        (run_dir / "versions.json").write_text(json.dumps(versions(), indent=1))
        console.print(str(stage))
        console.print(f"added {report['added']:,} of {report['total']:,} parameters ({report['added_ratio']:.3%})")
    result = _fit(fabric, model, dataset, tune, options, optim, weights, values, run_dir, resume)
    console.print(
        f"{result.steps} steps in {result.seconds:.0f} s, {result.skipped_steps} skipped; best step {result.best_step}"
    )
    if fabric.is_global_zero and values["evaluate"]:
        _load_best(model, run_dir)
        base = None
        if _base_trains(model) and values["model"].get("checkpoint") != "random":
            base = open_model(values["model"]).to(fabric.device)
        metrics = compare(
            model,
            data,
            protocol,
            run_dir,
            config_text=OmegaConf.to_yaml(config, resolve=True),
            extra={
                "params/trainable": stage.trainable,
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
    _say_what_is_next(console, run_dir)
    return run_dir


def _fit(
    fabric: Fabric,
    model: host.Sam3Image,
    dataset: ConceptPrompts,
    tune: ConceptPrompts | None,
    options: TrainOptions,
    optim: OptimizerOptions,
    weights: LossWeights,
    values: dict[str, object],
    run_dir: Path,
    resume: Path | None,
) -> FitResult:
    loss = GroundingLoss(model.transformer.decoder.num_queries, weights, model.matcher)
    batches = training_batches(
        dataset,
        options.batch_size,
        options.workers,
        values["seed"],
        fabric.device,
        fabric.global_rank,
        fabric.world_size,
    )
    with RadiusProbe(model) if hasattr(model, "hyperet_config") else contextlib.nullcontext() as probe:
        return fit(
            fabric,
            model,
            loss,
            batches,
            tuning_batches(tune, options.batch_size, fabric.device) if tune else lambda: iter(()),
            options,
            optim,
            run_dir,
            lambda which: _save(model, run_dir, which),
            resume=resume,
            tensorboard=values["logger"]["tensorboard"],
            observe=probe.latest if probe else dict,
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


def _save(model: host.Sam3Image, run_dir: Path, which: str) -> None:
    if hasattr(model, "hyperet_config"):
        save_adapter(model, run_dir / ADAPTER[which])
    if _base_trains(model):
        save_base(model, run_dir / WEIGHTS[which])


def _base_trains(model: host.Sam3Image) -> bool:
    return any(p.requires_grad for p in base_state_dict(model).values())


def _load_best(model: host.Sam3Image, run_dir: Path) -> None:
    if _base_trains(model):
        load_base(model, run_dir / WEIGHTS["best"])
    if hasattr(model, "hyperet_config"):
        load_adapter(model, run_dir / ADAPTER["best"])


def _state_to_resume(resume: str, run_dir: Path) -> Path | None:
    state = run_dir / STATE_FILE
    if resume == "never":
        return None
    if resume == "auto":
        return state if state.is_file() else None
    if not Path(resume).is_file():
        raise CheckpointError(f"resume={resume}: no such file; expected auto, never or a saved state")
    return Path(resume)


def _check_same_run(values: dict[str, object], state: Path) -> None:
    """A state belongs to the configuration beside it; going on with another one would be neither run."""
    file = state.parent / "config.yaml"
    if not file.is_file():
        return
    before = OmegaConf.load(file)
    for key in _DECIDING:
        now, then = OmegaConf.select(OmegaConf.create(values), key), OmegaConf.select(before, key)
        if now == then:
            continue
        if isinstance(now, DictConfig) and isinstance(then, DictConfig):
            name = next(name for name in {**now, **then} if now.get(name) != then.get(name))
            key, now, then = f"{key}.{name}", now.get(name), then.get(name)
        raise ConfigError(
            f"resume: {key} is {now}, but {then} in the run of {state}; use another run_dir or resume=never"
        )


def _check_optimizer(model: host.Sam3Image, optim: OptimizerOptions, options: TrainOptions) -> None:
    """Learn that it cannot be before anything is written."""
    try:
        build_optimizer(model.parameters(), optim, options.max_steps)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"optim: {error}") from error


def _fabric(options: TrainOptions) -> Fabric:
    try:
        return Fabric(accelerator=options.accelerator, devices=options.devices, precision=options.precision)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"train.accelerator, train.devices or train.precision: {error}") from error


def _say_what_is_next(console: Console, run_dir: Path) -> None:
    files = [name for name in (ADAPTER["best"], WEIGHTS["best"], "report.html") if (run_dir / name).is_file()]
    console.print("wrote " + ", ".join(str(run_dir / name) for name in files))
    if (run_dir / ADAPTER["best"]).is_file():
        console.print(f"next: python tools/predict.py adapter={run_dir / ADAPTER['best']} images=… prompts=[…]")
