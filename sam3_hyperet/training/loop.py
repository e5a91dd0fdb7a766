"""The training loop: setup, then steps, each with its checks, then the best and the last weights on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError, UserError
from sam3_hyperet.losses.grounding import MATCHED, TOTAL, GroundingLoss
from sam3_hyperet.training.optimizer import OptimizerOptions, build_optimizer
from sam3_hyperet.training.run_log import RunLog
from sam3_hyperet.training.stages import set_training_mode
from sam3_hyperet.training.state import FILE as STATE_FILE
from sam3_hyperet.training.state import load_state, save_state


class TrainingFailed(UserError, RuntimeError):
    """Training cannot go on; the message says since when and what to try."""


@dataclass(frozen=True)
class TrainOptions:
    """Options of the loop.

    Attributes:
        max_steps: optimizer steps.
        batch_size: images per step and process.
        workers: loader processes.
        clip_norm: gradients are scaled down to this norm.
        log_every: steps between two logged lines.
        tune_every: steps between two measurements of the loss on the tuning images; 0 for none (best = last).
        save_every: steps between two saved states; 0 for none.
        max_bad_steps: consecutive steps with a non-finite loss or gradient after which the run ends.
        precision: Fabric's: "32-true" or "bf16-mixed".
        threads: of PyTorch, per process; 0 leaves its choice.
        checkpoint_activations: less memory, more time.
    """

    max_steps: int
    batch_size: int
    workers: int = 0
    clip_norm: float = 1.0
    log_every: int = 10
    tune_every: int = 0
    save_every: int = 0
    max_bad_steps: int = 20
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    threads: int = 0
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "log_every", "max_bad_steps", "devices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name}={getattr(self, name)}; expected an integer from 1")
        for name in ("workers", "tune_every", "save_every", "threads"):
            if getattr(self, name) < 0:
                raise ConfigError(f"train.{name}={getattr(self, name)}; expected an integer from 0")


@dataclass(frozen=True)
class FitResult:
    """How a run of `fit` went."""

    steps: int
    skipped_steps: int
    best_step: int
    best_tune_loss: float
    seconds: float


class _Step(nn.Module):
    """Model and loss as one module, so that Fabric's wrapper sees plain tensors come out."""

    def __init__(self, model: host.Sam3Image, loss: GroundingLoss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: host.BatchedDatapoint) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.loss(self.model, batch)
        return terms


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
    tensorboard: bool = True,
    observe: Callable[[], dict[str, float]] = dict,
) -> FitResult:
    """Train what `set_stage` left trainable.

    Args:
        batches: given a step, an endless iterator over the training batches from that step on.
        tune_batches: an iterator over the tuning batches, the same ones every time.
        run_dir: gets metrics.jsonl, TensorBoard files, the state, and the weights.
        save: writes what is to be kept of the model; called with "best" and "last".
        resume: a saved state to go on from.
        observe: more values to log, called at every logged step.

    Raises:
        TrainingFailed: `max_bad_steps` consecutive steps without a finite loss and gradient.
    """
    optimizer, schedule = build_optimizer(model.parameters(), optim, options.max_steps)
    progress: dict[str, float] = {
        "step": 0,
        "skipped": 0,
        "bad": 0,
        "best_step": 0,
        "best": math.inf,
        "seconds": 0.0,
    }
    if resume:
        progress.update(load_state(resume, model, optimizer, schedule))
    step_module, optimizer = fabric.setup(_Step(model, loss), optimizer)
    log = RunLog(
        run_dir,
        options.max_steps,
        start=int(progress["step"]),
        active=fabric.is_global_zero,
        tensorboard=tensorboard,
    )
    started = time.perf_counter() - progress["seconds"]
    stream = batches(int(progress["step"]))
    try:
        while progress["step"] < options.max_steps:
            set_training_mode(model, checkpoint_activations=options.checkpoint_activations)
            terms, norm = _optimize(fabric, step_module, optimizer, next(stream), options.clip_norm)
            step = int(progress["step"]) + 1
            if norm is not None:
                schedule.step()
            skipped = norm is None
            progress.update(
                step=step,
                skipped=progress["skipped"] + skipped,
                bad=progress["bad"] + 1 if skipped else 0,
                seconds=time.perf_counter() - started,
            )
            _log_step(log, step, terms, norm, schedule.get_last_lr()[0], progress, options, observe)
            if progress["bad"] >= options.max_bad_steps:
                raise TrainingFailed(
                    f"the loss or its gradient was not finite for {options.max_bad_steps} steps in a row, up to step "
                    f"{step}; try a lower optim.lr, a longer optim.warmup_steps or train.precision=32-true"
                )
            if options.tune_every and (step % options.tune_every == 0 or step == options.max_steps):
                tune = tuning_loss(step_module, model, tune_batches())
                log.write(step, {f"tune/{key}": value for key, value in tune.items()})
                if tune[MATCHED] < progress["best"] or not progress["best_step"]:
                    progress.update(best=tune[MATCHED], best_step=step)
                    if fabric.is_global_zero:
                        save("best")
            if options.save_every and step % options.save_every == 0 and fabric.is_global_zero:
                save_state(run_dir / STATE_FILE, model, optimizer.optimizer, schedule, progress)
        if fabric.is_global_zero:
            save("last")
            if not options.tune_every:
                progress["best_step"] = progress["step"]
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


def _optimize(
    fabric: Fabric,
    step_module: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: host.BatchedDatapoint,
    clip_norm: float,
) -> tuple[dict[str, Tensor], float | None]:
    """One optimizer step.

    Returns:
        The loss terms, and the gradient's norm, or None where loss or gradient was not finite and nothing was changed.
    """
    terms = step_module(batch)
    total, terms = terms[TOTAL], {key: value.detach() for key, value in terms.items()}
    optimizer.zero_grad(set_to_none=True)
    if not torch.isfinite(total):
        return terms, None
    fabric.backward(total)
    norm = fabric.clip_gradients(step_module, optimizer, max_norm=clip_norm, error_if_nonfinite=False)
    if not torch.isfinite(norm):
        optimizer.zero_grad(set_to_none=True)
        return terms, None
    optimizer.step()
    return terms, float(norm)


@torch.no_grad()
def tuning_loss(step_module: nn.Module, model: nn.Module, batches: Iterator[host.BatchedDatapoint]) -> dict[str, float]:
    """Mean of every loss term over the tuning batches, without dropout.

    Raises:
        ConfigError: no tuning batch.
    """
    model.eval()
    model.training = True  # the root's flag alone: SAM 3 then returns what its losses need
    sums: dict[str, float] = {}
    count = 0
    for batch in batches:
        for key, value in step_module(batch).items():
            sums[key] = sums.get(key, 0.0) + float(value)
        count += 1
    if not count:
        raise ConfigError("train.tune_every is set, but there is no tuning picture; expected data.tune_images from 1")
    return {key: value / count for key, value in sums.items()}


def _log_step(
    log: RunLog,
    step: int,
    terms: dict[str, Tensor],
    norm: float | None,
    lr: float,
    progress: dict[str, float],
    options: TrainOptions,
    observe: Callable[[], dict[str, float]],
) -> None:
    log.step(step)
    if step % options.log_every and step not in (1, options.max_steps):
        return
    values = {f"train/{key}": float(value) for key, value in terms.items() if "_aux" not in key}
    values |= {
        "train/lr": lr,
        "train/skipped_steps": progress["skipped"],
        "train/seconds": progress["seconds"],
    }
    if norm is not None:
        values["train/gradient_norm"] = norm
    log.write(step, values | observe())
    shown = {
        "loss": TOTAL,
        "box": "loss_bbox",
        "mask": "loss_mask",
        "dice": "loss_dice",
        "presence": "presence_loss",
    }
    log.step(step, "  ".join(f"{name} {float(terms[key]):.3g}" for name, key in shown.items() if key in terms))
