"""The training loop: setup, steps with their checks, the best and the last weights on disk."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError, UserError
from sam3_hyperet.losses.grounding import MATCHED, TOTAL, GroundingLoss, count_targets
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.probe import RadiusProbe
from sam3_hyperet.training.curvature_schedule import RadiusControl, radius_control
from sam3_hyperet.training.distributed import optimizer_state, whole_parameters
from sam3_hyperet.training.options import STATE_FILE, FitOptions
from sam3_hyperet.training.run_folder import RunFolder
from sam3_hyperet.training.run_log import RunLog
from sam3_hyperet.training.signals import Interrupted
from sam3_hyperet.training.stages import Stages
from sam3_hyperet.training.state import random_generators, read_state, restore_state, save_state
from sam3_hyperet.training.step import KeptPrecision, Passes, optimize

_SHOWN = {"loss": TOTAL, "box": "loss_bbox", "mask": "loss_mask", "dice": "loss_dice", "presence": "presence_loss"}


@dataclass
class Progress:
    """Counters of a run, which a saved state brings back.

    Attributes:
        step: optimizer steps so far, the skipped ones included.
        skipped_steps: steps without a finite loss and gradient, which changed nothing.
        bad_steps: how many of them are the last ones, in a row.
        seconds: of training, over all starts of the run.
        best_step, best_loss: the step with the lowest validation loss, and that loss.
    """

    step: int = 0
    skipped_steps: int = 0
    bad_steps: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best_loss: float = math.inf

    def count_step(self, *, skipped: bool) -> None:
        """Count one step more."""
        self.step += 1
        self.skipped_steps += skipped
        self.bad_steps = self.bad_steps + 1 if skipped else 0

    def count_loss(self, loss: float) -> bool:
        """Note the validation loss of the present step; returns whether it is the best so far."""
        is_best = loss < self.best_loss or not math.isfinite(self.best_loss)
        if is_best:
            self.best_step, self.best_loss = self.step, loss
        return is_best

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the counters of a saved state."""
        vars(self).update((name, state[name]) for name in asdict(self))


class TrainingFailed(UserError, RuntimeError):
    """No finite loss for many steps; the message has the step and what to try."""


def fit(
    fabric: Fabric,
    model: host.Sam3Image,
    loss: GroundingLoss,
    batches: Callable[[int], Iterator[host.BatchedDatapoint]],
    val_batches: Callable[[], Iterator[host.BatchedDatapoint]],
    options: FitOptions,
    run: RunFolder,
    interrupted: Callable[[], bool] = bool,
) -> Progress:
    """Train, stage by stage.

    Args:
        batches: from a number of steps done to an endless iterator over this process's training batches.
        val_batches: makes an iterator over the validation batches, the same ones every time.
        run: gets metrics.jsonl, the trackers' files, the state and the weights; has the state to go on from.
        interrupted: called after every step, in all processes; whether to save the state and stop.

    Raises Interrupted once `interrupted` has returned true, and TrainingFailed after `max_bad_steps` consecutive steps
    without a finite loss and gradient.
    """
    train, progress = options.train, Progress()
    stages = Stages(fabric, model, loss, options.stage, options.optim, train.max_steps)
    radius = radius_control(model, options.radius, train.max_steps)
    passes = Passes(train.prompts_at_once, train.checkpoint_activations)
    state = read_state(run.resume, fabric.world_size) if run.resume else None
    if state is not None:
        progress.load_state_dict(state["progress"])
        stages.load_state_dict(state["progress"]["stages"])
        passes.load_state_dict(state["progress"].get("passes", {}))
    with contextlib.ExitStack() as stack:
        stack.callback(model.eval)
        is_first = fabric.is_global_zero
        log = RunLog(run.path, train.max_steps, start=progress.step, active=is_first, options=options.logger)
        stack.callback(log.close)
        stages.begin()
        if run.resume and state is not None:
            restore_state(run.resume, state, model, stages.raw_optimizer, fabric.global_rank)
            if radius is not None:
                radius.load_state_dict(state["progress"]["radius"])
        is_watched = log.active and adapter_config(model) is not None
        probe = stack.enter_context(RadiusProbe(model)) if is_watched else None
        started = time.perf_counter() - progress.seconds
        stream = batches(progress.step)
        while progress.step < train.max_steps:
            rates = stages.set_learning_rates(progress.step)
            is_logged = _is_due(progress.step + 1, train.log_every, train.max_steps) or progress.step == 0
            of_step = [next(stream) for _ in range(train.accumulate)]
            terms, norms = optimize(fabric, stages, of_step, options.clip_norm, by_group=is_logged, passes=passes)
            progress.count_step(skipped=norms is None)
            progress.seconds = time.perf_counter() - started
            log.step(progress.step)
            if is_logged:
                with whole_parameters(stages.module, adapters_only=True):
                    if log.active:
                        values = _of_step(progress, terms, rates, norms or {})
                        radii = probe.latest() | probe.histograms() if probe else {}
                        log.write(progress.step, {**values, **radii, **(radius.metrics if radius else {})})
                        shown = (f"{name} {float(terms[key]):.3g}" for name, key in _SHOWN.items() if key in terms)
                        log.step(progress.step, "  ".join(shown))
            if progress.bad_steps >= train.max_bad_steps:
                found = f"not finite for {train.max_bad_steps} steps in a row, up to step {progress.step}"
                remedy = "try a lower optim.lr, a longer optim.warmup or train.precision=32-true"
                raise TrainingFailed(f"the loss or its gradient was {found}; {remedy}")
            if radius is not None:
                radius.update(progress.step, float(terms[MATCHED]))
            val = None
            if _is_due(progress.step, train.tune_every, train.max_steps):
                losses = validation_losses(stages.module, model, val_batches(), train.accumulate * fabric.world_size)
                log.write(progress.step, {f"tune/{key}": value for key, value in losses.items()})
                val = losses[MATCHED]
                if progress.count_loss(val):
                    _save_weights(stages, run, "best")
            if progress.step < train.max_steps and (report := stages.advance(progress.step, val)):
                log.message(f"after step {progress.step}, {report}")
                log.write(progress.step, {"train/stage": stages.number})
            stop = interrupted()
            if stop or (train.save_every and progress.step % train.save_every == 0):
                _save_state(stages, run, progress, radius, passes)
            if stop:
                raise Interrupted(progress.step)
        if not train.tune_every:
            progress.best_step = progress.step
        _save_weights(stages, run, *(("last",) if train.tune_every else ("last", "best")))
    return progress


@torch.no_grad()
def validation_losses(
    step_module: nn.Module, model: nn.Module, batches: Iterator[host.BatchedDatapoint], together: int
) -> dict[str, float]:
    """Mean of every loss term over the validation batches, without dropout, and with the same random draws every time.

    So many batches `together` count as one, as in a step. Raises ConfigError if there is none.
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
                for key, value in step_module(KeptPrecision(batch), counts).items():
                    sums[key] = sums.get(key, 0.0) + float(value)
            count += 1
    if not count:
        raise ConfigError("train.tune_every is set, but there is no tuning image; expected data.tune_images from 1")
    return {key: value / count for key, value in sums.items()}


def _is_due(step: int, every: int, last: int) -> bool:
    """Whether something happens after `step`: every so many steps (0: never), and at the end."""
    return bool(every) and (step % every == 0 or step == last)


def _save_weights(stages: Stages, run: RunFolder, *names: str) -> None:
    with whole_parameters(stages.module, on_cpu=True):
        if stages.fabric.is_global_zero:
            for name in names:
                run.save(stages.model, name)


def _save_state(
    stages: Stages, run: RunFolder, progress: Progress, radius: RadiusControl | None, passes: Passes
) -> None:
    generators = random_generators(stages.fabric.device, stages.fabric.world_size)
    of_optimizer = optimizer_state(stages.module, stages.raw_optimizer)
    values = {**asdict(progress), "stages": stages.state_dict(), "passes": passes.state_dict()}
    values["radius"] = radius.state_dict() if radius else {}
    with whole_parameters(stages.module, on_cpu=True):
        if stages.fabric.is_global_zero:
            save_state(run.path / STATE_FILE, stages.model, of_optimizer, values, generators)


def _of_step(
    progress: Progress, terms: Mapping[str, Tensor], rates: Mapping[str, float], norms: Mapping[str, float]
) -> dict[str, float]:
    """What is logged of a step, but for the radii."""
    return {
        **{f"train/{key}": float(value) for key, value in terms.items() if "_aux" not in key},
        "train/lr": max(rates.values()),
        **{f"train/lr/{group}": rate for group, rate in rates.items() if len(rates) > 1},
        **norms,
        "train/skipped_steps": progress.skipped_steps,
        "train/seconds": progress.seconds,
    }
