"""`sam3-hyperet train`: train, then score the base and the adapted model, and write the report."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.strategy import Strategy
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.after_training import print_next, trained_models
from sam3_hyperet.cli.base_pictures import base_remark
from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.compare import compare_and_report
from sam3_hyperet.cli.composition import plain, with_values
from sam3_hyperet.cli.dial import set_dials
from sam3_hyperet.cli.processes import launched
from sam3_hyperet.cli.recognition import recognised, recognised_here
from sam3_hyperet.cli.rehearsal import rehearse
from sam3_hyperet.cli.run_options import RunOptions, read_run
from sam3_hyperet.cli.step_memory import with_memory
from sam3_hyperet.cli.submit import parse_runs, submit_runs
from sam3_hyperet.cli.training_data import (
    TrainingData,
    all_prompts,
    calibration_remark,
    concept_prompts,
    load_of,
    open_data,
    validation_remark,
    with_answers,
    with_remedy,
)
from sam3_hyperet.cli.training_data import views as views_of
from sam3_hyperet.cli.validation import open_own_kept, validation_score, validation_task
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.mixture import Mixture
from sam3_hyperet.evaluation.cascade import calibration_images
from sam3_hyperet.evaluation.task import open_task
from sam3_hyperet.files import replacing, sole_use, write_json
from sam3_hyperet.inference.predictor import check_prompts
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.compilation import compiled_regions
from sam3_hyperet.modeling.controls.peft_layers import check_peft
from sam3_hyperet.modeling.fingerprint import fingerprints_kept
from sam3_hyperet.modeling.opening import check_checkpoint, open_adapted_model, set_threads
from sam3_hyperet.modeling.parameters import parameter_report
from sam3_hyperet.precision import device_of, fabric_precision, float32_products, precision_text, resolved_precision
from sam3_hyperet.reading import read_json
from sam3_hyperet.training.batches import training_batches, val_batches
from sam3_hyperet.training.curvature_schedule import radius_control
from sam3_hyperet.training.distributed import sharding_strategy
from sam3_hyperet.training.feature_cache import cached_trunk, check_cache
from sam3_hyperet.training.gathering import from_first
from sam3_hyperet.training.loaders import loader_processes
from sam3_hyperet.training.loop import fit
from sam3_hyperet.training.optimizer import build_optimizer, describe_groups
from sam3_hyperet.training.options import FSDP, TrainOptions
from sam3_hyperet.training.run_files import CONFIG_FILE, VERSIONS_FILE
from sam3_hyperet.training.run_folder import RunFolder, find_run
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.signals import Preemption
from sam3_hyperet.training.stages import set_stage
from sam3_hyperet.training.text_features import text_features_once
from sam3_hyperet.training.validation import Validation
from sam3_hyperet.training.warm_start import initial_adapter, load_to_train
from sam3_hyperet.version import versions
from sam3_hyperet.wording import count_of


def main(argv: list[str] | None = None, tool: str = "train") -> Path:
    """Run the tool, or submit its runs to Slurm; returns the run's folder, or that of all runs of a sweep."""
    configs, folder = parse_runs(tool, argv)
    if configs[0].launcher.name == "local":
        return train(configs[0])
    say = partial(Console(highlight=False).print, markup=False, soft_wrap=True)
    configs = [recognised_here(config, say) for config in configs]
    for config in configs:
        values = plain(config)
        options = read_run(values)
        options.check_alone()
        open_folder(options, values)
    return submit_runs(f"{__name__}:{train_job.__name__}", configs, folder)


def train_job(config: DictConfig) -> None:
    """`train` as a job on a cluster runs it: an error of the user is one line of its log."""
    exit_cleanly(train)(config)


def open_folder(options: RunOptions, values: dict[str, Any]) -> RunFolder:
    """The folder of the run that a configuration describes, with the state there to go on from, if there is one.

    Raises a ConfigError if it has another run's state or weights, or files of somebody else.
    """
    run = find_run(Path(values["run_dir"]), values["resume"])
    if run.resume:
        options.check_same(run.resume.parent, str(run.resume))
    if values["resume"] != "never" and run.has_weights:
        options.check_same(run.path, f"{run.path}, which would be replaced")
    run.check(evaluate=options.evaluate)
    return run


def train(config: DictConfig) -> Path:
    """Train one run; returns its folder.

    It has config.yaml, metrics.jsonl, TensorBoard files, the adapter (or, where the base trains as well, the weights)
    of the best and of the last step, and with `evaluate=true` metrics.json and report.html.
    """
    console = Console(highlight=False)
    asked = read_run(plain(config)).train
    device = device_of(asked.accelerator)
    precision = resolved_precision(asked.precision, device, "train.precision")
    config = with_values(config, {"train": {"precision": precision}})
    options = read_run(plain(config))
    options.check_alone()
    check_checkpoint(plain(config.model))
    check_peft(options.hyperet.adapter)
    set_threads(options.train.threads)
    fabric = _launched(options.train, options.stage.last)
    console.quiet = not fabric.is_global_zero
    console.print(precision_text(asked.precision, precision, device), soft_wrap=True)
    config = recognised(config, partial(console.print, markup=False, soft_wrap=True))
    values = plain(config)
    options = read_run(values)
    with contextlib.ExitStack() as stack:

        def begin() -> RunFolder:
            if notice := stack.enter_context(sole_use(Path(values["run_dir"]))):
                console.print(notice, markup=False, soft_wrap=True)
            return open_folder(options, values)

        run = from_first(fabric, begin)  # whose clock names it
        return _train(config, values, options, run, fabric, console)


def _train(
    config: DictConfig, values: dict[str, Any], options: RunOptions, run: RunFolder, fabric: Fabric, console: Console
) -> Path:
    """Train in a folder that is this run's alone."""
    say = partial(console.print, markup=False, soft_wrap=True)
    with fabric.rank_zero_first():  # it may draw the images
        data = open_data(options, tune=bool(options.train.validate_every))
        scored = data.splits.evaluation
        calibrating = calibration_images(options.data, scored, options.protocol) if scored else None
    kept = open_own_kept(scored, options, say) if scored else None
    validated = validation_task(data.splits.tuning, options, say)
    if options.train.max_steps is None:
        options = options.of_images(data.images_an_epoch)
        config.train.max_steps = values["train"]["max_steps"] = options.train.max_steps
        say(options.train.length)
        from_first(fabric, lambda: open_folder(options, values))  # the run there may have had other steps
    for line in _remarks(data, calibrating, options):
        say(line)
    given = None if run.resume else options.init_adapter  # a saved state is further on
    first = initial_adapter(given, options.hyperet) if given else None
    torch.manual_seed(options.seed)  # the same model in every process …
    model = open_adapted_model(values["model"], options.hyperet).to(fabric.device)
    dial = load_to_train(model, first[0]) if first else 1.0
    if fabric.global_rank:
        torch.manual_seed(options.seed + fabric.global_rank)  # … and other draws while it trains
    stage = set_stage(model, options.stage.number, options.stage.layers)
    training, tuning = concept_prompts(data, options, resolution(model), say)
    for line in data.share_lines(options.train.images_a_step * (options.train.max_steps or 0)):
        say(line)
    if tuning and (line := validation_remark(options.train, len(tuning))):
        say(line)
    views = views_of(training, tuning)
    score_task = open_task(scored, replace(options.protocol, examples=0), kept) if scored else None
    groups = _check(model, options, all_prompts(training, tuning, (validated, score_task)), views)
    preemption = Preemption(fabric, say, f"to go on, run the same command with run_dir={run.path}")
    score = validation_score(validated, model, options, fabric, say, preemption.noted)
    config_text = OmegaConf.to_yaml(config, resolve=True)
    from_first(fabric, lambda: _write_start(run, config_text, first[1] if first else None))
    if first:
        at = f", saved at dial {dial:g} and trained at 1" if dial != 1.0 else ""
        say(f"begins with the adapter of {first[0]} (SHA-256 {first[1][:12]}…){at}")
    say(str(replace(stage, groups=groups)))
    report = parameter_report(model)
    say(f"added {report['added']:,} of {report['total']:,} parameters ({report['added_ratio']:.3%})")

    if data.rehearsed:
        rehearse(model, data.rehearsed, options, run, fabric, console)
        assert isinstance(training, Mixture)
        training = with_answers(training, data, options, resolution(model))
    options = with_memory(options, fabric, say)
    batches = _batches(training, options, resolution(model), fabric, say)
    beside = _loader_processes(training, options, resolution(model), fabric) // 2  # those of training keep theirs
    size = options.train.batch_size
    validation = Validation(
        lambda: val_batches(tuning, size, workers=beside) if tuning else iter(()), score, preemption.noted
    )
    with preemption, _ready_to_train(model, options, views):
        stopped = preemption.requested
        result = fit(  # whose loss goes with it: it holds on to the model
            fabric, model, GroundingLoss(model, options.loss), batches, validation, options, run, stopped
        )
    took = f"{result.seconds:.0f} s, of which {result.validation_seconds:.0f} s for validation"
    skipped = f"{result.skipped_steps} skipped; best step {result.best_step}"
    say(f"{count_of(result.step, 'step')} in {took}, {skipped}")
    if scored is not None:
        extra = {"params/trainable": parameter_report(model)["trainable"], "train/steps": result.step}
        extra |= {f"train/{name}": getattr(result, name) for name in ("seconds", "skipped_steps", "best_step")}
        if options.train.strategy == FSDP:  # the model that trained is split over the processes
            model = open_adapted_model(values["model"], options.hyperet).to(fabric.device)
            set_stage(model, options.stage.number)
        models = trained_models(model, values["model"], run, fabric)
        set_dials(models, None, say)  # that of a file which has been dialled since is said
        inputs = models, options.data, scored, options.protocol, run.path
        compared = partial(compare_and_report, config_text=config_text, extra=extra, base=options.model.weights)
        compared(*inputs, console=console, fabric=fabric, tuning=calibrating, kept=kept)
    held_out = scored or data.splits.tuning
    print_next(say, run.path, data.splits.training, held_out.images if held_out else data.splits.training)
    return run.path


def _remarks(data: TrainingData, calibrating: AnnotatedImages | None, options: RunOptions) -> Iterator[str]:
    """What a person should know of the images before a model is built."""
    if calibrating and (remark := calibration_remark(data, calibrating)):
        yield remark
    if remark := base_remark(options.model, data.options):
        yield remark
    steps, every = options.train.max_steps or 0, options.train.validate_every
    if every > steps:
        yield f"warning: train.validate_every={every} of {steps} steps: only before the first and after the last one"


def _check(model: host.Sam3Image, options: RunOptions, prompts: Sequence[str], views: int) -> tuple[str, ...]:
    """Raise ConfigError for what would otherwise be found after files are written; lines on the optimizer's groups.

    prompts: all that will be asked for. views: as for `check_cache`.
    """
    radius_control(model, options.radius, options.train.max_steps or 0)
    key_layers = options.stage.layers if options.stage.number < 3 else ()
    groups = describe_groups(build_optimizer(model, options.optim, key_layers=key_layers))
    check_prompts(model, prompts)
    check_cache(model, options.cache, options.stage, views)
    return groups


def _write_start(run: RunFolder, config_text: str, digest: str | None) -> None:
    """Write what the run is: its configuration, versions and, by its digest, the adapter that it begins with."""
    run.prepare()
    with replacing(run.path / CONFIG_FILE) as file:  # a killed run goes on only if its configuration is whole
        file.write_text(config_text, encoding="utf-8")
    before = read_json(run.path / VERSIONS_FILE) if run.resume and (run.path / VERSIONS_FILE).is_file() else {}
    digest = digest or before.get("init_adapter")
    write_json(run.path / VERSIONS_FILE, {**versions(), **({"init_adapter": digest} if digest else {})})


def _batches(
    training: ConceptPrompts | Mixture, options: RunOptions, side: int, fabric: Fabric, say: Callable[[str], None]
) -> Callable[[int], Iterator[host.BatchedDatapoint]]:
    """From a number of steps done to the batches of this process that follow."""
    train, device = options.train, fabric.device
    workers = _loader_processes(training, options, side, fabric)
    if train.workers is None and device.type == "cuda":
        say(f"{count_of(workers, 'loader process')} beside each process that trains (train.workers)")
    ordered = partial(training_batches, training, train.batch_size, seed=options.seed, accumulate=train.accumulate)
    of_process = partial(ordered, rank=fabric.global_rank, world=fabric.world_size, workers=workers, device=device)

    def batches(step: int) -> Iterator[host.BatchedDatapoint]:
        with with_remedy():
            yield from of_process(step=step)

    return batches


def _loader_processes(training: ConceptPrompts | Mixture, options: RunOptions, side: int, fabric: Fabric) -> int:
    return loader_processes(options.train, side, on_gpu=fabric.device.type == "cuda", load=load_of(training))


@contextlib.contextmanager
def _ready_to_train(model: host.Sam3Image, options: RunOptions, views: int) -> Iterator[None]:
    """Context in which the model is compiled, if it is to be, and computes once what stays the same."""
    train = options.train
    with contextlib.ExitStack() as stack:
        stack.enter_context(float32_products(train.precision))
        stack.enter_context(compiled_regions([model]))
        stack.enter_context(shared_work(model))
        stack.enter_context(fingerprints_kept(model))
        if train.strategy != FSDP:  # whose processes must run each block equally often
            stack.enter_context(text_features_once(model))
        if train.prompts_at_once or train.memory == "auto":  # which may split a step later on
            stack.enter_context(shared_encoding([model]))  # between the passes of an image
        if options.cache.folder:
            stack.enter_context(cached_trunk(model, options.cache, views, train.precision))
        yield


def _launched(options: TrainOptions, stage: int) -> Fabric:
    processes = options.nodes * options.devices
    strategy: str | Strategy = options.strategy
    if strategy == FSDP:
        strategy = sharding_strategy(processes)
    elif processes > 1 and strategy == "auto" and stage > 1:
        strategy = "ddp_find_unused_parameters_true"  # the base has some, such as those of prompts by points
    blamed = "train.accelerator, train.devices, train.nodes, train.strategy or train.precision"
    computes = {"accelerator": options.accelerator, "precision": fabric_precision(options.precision)}
    return launched(blamed, devices=options.devices, nodes=options.nodes, strategy=strategy, **computes)
