"""The training loop: setup, then steps, each with its checks, then the best and the last weights on disk."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError, UserError
from sam3_hyperet.losses.grounding import MATCHED, TOTAL, GroundingLoss, count_targets
from sam3_hyperet.training.batches import parts_of
from sam3_hyperet.training.curvature_schedule import RadiusControl
from sam3_hyperet.training.distributed import gathered_state, whole_parameters
from sam3_hyperet.training.options import LoggerOptions, OptimizerOptions, StageOptions, TrainOptions
from sam3_hyperet.training.run_log import RunLog
from sam3_hyperet.training.signals import Interrupted
from sam3_hyperet.training.stages import set_training_mode
from sam3_hyperet.training.staging import Staging
from sam3_hyperet.training.state import FILE as STATE_FILE
from sam3_hyperet.training.state import random_generators, read_state, restore_state, save_state
from sam3_hyperet.training.step import optimize


class TrainingFailed(UserError, RuntimeError):
    """Training cannot go on; the message says since when and what to try."""


@dataclass(frozen=True)
class FitResult:
    """How a run of `fit` went."""

    steps: int
    skipped_steps: int
    best_step: int
    best_tune_loss: float
    seconds: float


def fit(
    fabric: Fabric,
    model: host.Sam3Image,
    loss: GroundingLoss,
    batches: Callable[[int], Iterator[host.BatchedDatapoint]],
    tune_batches: Callable[[], Iterator[host.BatchedDatapoint]],
    options: TrainOptions,
    optim: OptimizerOptions,
    run_dir: Path,
    save: Callable[[Path | str], None],
    *,
    resume: Path | None = None,
    logger: LoggerOptions | None = None,
    observe: Callable[[], Mapping[str, float | Tensor]] = dict,
    interrupted: Callable[[], bool] = bool,
    radius: RadiusControl | None = None,
    stages: StageOptions | None = None,
) -> FitResult:
    """Train, stage by stage.

    Args:
        batches: given a step, an endless iterator over this process's training batches from that step on.
        tune_batches: an iterator over the tuning batches, the same ones every time.
        run_dir: gets metrics.jsonl, the trackers' files, the state, and the weights.
        save: writes what is to be kept of the model; called with "best" and "last".
        resume: a saved state to go on from.
        logger: which trackers get the figures; None for none.
        observe: more values to log, as `RunLog.write` takes them, called at every logged step.
        interrupted: asked after every step, by all processes: whether to save the state and stop.
        radius: moves the curvature after every step, by the loss that selects the best step.
        stages: what trains, and when; None is stage 1.

    Raises:
        Interrupted: `interrupted` said so.
        TrainingFailed: `max_bad_steps` consecutive steps without a finite loss and gradient.
    """
    progress: dict[str, float] = {
        "step": 0,
        "skipped": 0,
        "bad": 0,
        "best_step": 0,
        "best": math.inf,
        "seconds": 0.0,
    }
    state = read_state(resume, fabric.world_size) if resume else {"progress": {}}
    log = RunLog(
        run_dir,
        options.max_steps,
        start=int(state["progress"].get("step", 0)),
        active=fabric.is_global_zero,
        options=logger,
    )
    try:
        staging = Staging(
            fabric, model, loss, stages or StageOptions(), optim, options.max_steps, progress, log.message
        )
        progress.update(state["progress"])
        staging.begin()
        if resume:
            restore_state(resume, state, model, staging.raw_optimizer, fabric.global_rank)
            if radius is not None:
                radius.restore(progress)
        started = time.perf_counter() - progress["seconds"]
        stream = batches(int(progress["step"]))
        while progress["step"] < options.max_steps:
            set_training_mode(model, checkpoint_activations=options.checkpoint_activations)
            rates = staging.set_learning_rates(int(progress["step"]))
            step = int(progress["step"]) + 1
            is_logged = step % options.log_every == 0 or step in (1, options.max_steps)
            mine = [next(stream) for _ in range(options.accumulate)]
            if options.prompts_at_once:
                mine = [part for batch in mine for part in parts_of(batch, options.prompts_at_once)]
            terms, norms = optimize(fabric, staging, mine, options.clip_norm, by_group=is_logged)
            skipped = norms is None
            progress.update(
                step=step,
                skipped=progress["skipped"] + skipped,
                bad=progress["bad"] + 1 if skipped else 0,
                seconds=time.perf_counter() - started,
            )
            log.step(step)
            if is_logged:
                with whole_parameters(staging.module):
                    _log_step(log, step, terms, norms or {}, rates, progress, observe)
            if progress["bad"] >= options.max_bad_steps:
                raise TrainingFailed(
                    f"the loss or its gradient was not finite for {options.max_bad_steps} steps in a row, up to step "
                    f"{step}; try a lower optim.lr, a longer optim.warmup_steps or train.precision=32-true"
                )
            if radius is not None:
                radius.update(step, float(terms[MATCHED]))
                progress.update(radius.state)
            tuned = None
            if options.tune_every and (step % options.tune_every == 0 or step == options.max_steps):
                together = options.accumulate * fabric.world_size
                tune = tuning_loss(staging.module, model, tune_batches(), together)
                tuned = tune[MATCHED]
                log.write(step, {f"tune/{key}": value for key, value in tune.items()})
                if tuned < progress["best"] or not math.isfinite(progress["best"]):
                    progress.update(best=tuned, best_step=step)
                    with whole_parameters(staging.module):
                        if fabric.is_global_zero:
                            save("best")
            if step < options.max_steps and staging.advance(step, tuned):
                log.write(step, {"train/stage": staging.number})
            stop = interrupted()
            if stop or (options.save_every and step % options.save_every == 0):
                generators = random_generators(fabric.device, fabric.world_size)
                optimizer_state = gathered_state(staging.raw_optimizer)
                with whole_parameters(staging.module):
                    if fabric.is_global_zero:
                        save_state(run_dir / STATE_FILE, model, optimizer_state, progress, generators)
            if stop:
                raise Interrupted(step)
        if not options.tune_every:
            progress["best_step"] = progress["step"]
        with whole_parameters(staging.module):
            if fabric.is_global_zero:
                save("last")
                if not options.tune_every:
                    save("best")
    finally:
        log.close()
        model.eval()
    return FitResult(
        steps=int(progress["step"]),
        skipped_steps=int(progress["skipped"]),
        best_step=int(progress["best_step"]),
        best_tune_loss=float(progress["best"]),
        seconds=float(progress["seconds"]),
    )


@torch.no_grad()
def tuning_loss(
    step_module: nn.Module, model: nn.Module, batches: Iterator[host.BatchedDatapoint], together: int = 1
) -> dict[str, float]:
    """Mean of every loss term over the tuning batches, without dropout, and with the same random draws every time.

    Args:
        together: how many batches count as one, as in a step.

    Raises:
        ConfigError: no tuning batch.
    """
    model.eval()
    model.training = True  # the root's flag alone: SAM 3 then returns what its losses need
    sums: dict[str, float] = {}
    count = 0
    with torch.random.fork_rng(devices=[]):  # training goes on with its own draws
        torch.default_generator.manual_seed(0)
        while parts := list(itertools.islice(batches, together)):
            counts = count_targets(parts)
            for batch in parts:
                for key, value in step_module(batch, counts).items():
                    sums[key] = sums.get(key, 0.0) + float(value)
            count += 1
    if not count:
        raise ConfigError("train.tune_every is set, but there is no tuning picture; expected data.tune_images from 1")
    return {key: value / count for key, value in sums.items()}


def _log_step(
    log: RunLog,
    step: int,
    terms: dict[str, Tensor],
    norms: dict[str, float],
    rates: dict[str, float],
    progress: dict[str, float],
    observe: Callable[[], Mapping[str, float | Tensor]],
) -> None:
    values = {f"train/{key}": float(value) for key, value in terms.items() if "_aux" not in key}
    values |= {
        "train/lr": max(rates.values()),
        **{f"train/lr/{group}": rate for group, rate in rates.items() if len(rates) > 1},
        "train/skipped_steps": progress["skipped"],
        "train/seconds": progress["seconds"],
    }
    log.write(step, {**values, **norms, **observe()})
    shown = {
        "loss": TOTAL,
        "box": "loss_bbox",
        "mask": "loss_mask",
        "dice": "loss_dice",
        "presence": "presence_loss",
    }
    log.step(step, "  ".join(f"{name} {float(terms[key]):.3g}" for name, key in shown.items() if key in terms))
