"""The training loop: setup, steps with their checks, the best and the last weights on disk."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial

from lightning_fabric import Fabric
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import UserError
from sam3_hyperet.losses.grounding import MATCHED, GroundingLoss
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.probe import RadiusProbe
from sam3_hyperet.training.choice import LOSS, Rule
from sam3_hyperet.training.curvature_schedule import RadiusControl, radius_control
from sam3_hyperet.training.distributed import optimizer_state, whole_parameters
from sam3_hyperet.training.ema import Average
from sam3_hyperet.training.options import FitOptions, TrainOptions
from sam3_hyperet.training.progress import Progress
from sam3_hyperet.training.run_files import STATE_FILE
from sam3_hyperet.training.run_folder import RunFolder
from sam3_hyperet.training.run_log import RunLog
from sam3_hyperet.training.signals import Interrupted
from sam3_hyperet.training.stages import Stages
from sam3_hyperet.training.state import random_generators, read_state, restore_state, save_state
from sam3_hyperet.training.step import Passes, optimize
from sam3_hyperet.training.validation import Validation, judged, shown
from sam3_hyperet.wording import count_of

_SHOWN = {"loss": MATCHED, "box": "loss_bbox", "mask": "loss_mask", "dice": "loss_dice", "presence": "presence_loss"}


class TrainingFailed(UserError, RuntimeError):
    """No finite loss for many steps; the message has the step and what to try."""


def fit(
    fabric: Fabric,
    model: host.Sam3Image,
    loss: GroundingLoss,
    batches: Callable[[int], Iterator[host.BatchedDatapoint]],
    validation: Validation,
    options: FitOptions,
    run: RunFolder,
    interrupted: Callable[[], bool] = bool,
) -> Progress:
    """Train, stage by stage, to the last step or until `patience` ends the run.

    Args:
        batches: from a number of steps done to an endless iterator over this process's training batches.
        validation: measured before the first step, every `validate_every` steps and after the last one.
        run: gets metrics.jsonl, the trackers' files, the state and the weights; has the state to go on from.
        interrupted: called after every step, in all processes; whether to save the state and stop.

    Raises Interrupted once `interrupted` has returned true, and TrainingFailed after `max_bad_steps` consecutive steps
    without a finite loss and gradient.
    """
    train, progress = options.train, Progress()
    stages = Stages(fabric, model, loss, options.stage, options.optim, train.max_steps)
    radius = radius_control(model, options.radius, train.max_steps)
    passes = Passes(train.prompts_at_once or 0, bool(train.checkpoint_activations), repeats=train.memory == "auto")
    state = read_state(run.resume, fabric.world_size) if run.resume else None
    if state is not None:
        progress.load_state_dict(state["progress"])
        stages.load_state_dict(state["progress"]["stages"])
        if passes.repeats:  # its passes were chosen, or made smaller, by the run so far
            passes.load_state_dict(state["progress"].get("passes", {}))
    with contextlib.ExitStack() as stack:
        stack.callback(model.eval)
        is_first = fabric.is_global_zero
        log = RunLog(run.path, train.max_steps, start=progress.step, active=is_first, options=options.logger)
        stack.callback(log.close)
        stages.begin()
        started = time.perf_counter() - progress.seconds
        average = Average(model, train.ema) if train.ema else None
        validate = partial(_validate, fabric, stages, validation, passes, train, progress, log)
        kept = average.applied if average else contextlib.nullcontext  # context of the weights that the run is to keep
        if run.resume and state is not None:
            restore_state(run.resume, state, model, stages.raw_optimizer, fabric.global_rank)
            if radius is not None:
                radius.load_state_dict(state["progress"]["radius"])
            if average is not None:
                average.load_state_dict(state["progress"]["average"])
            log.message(_goes_on(progress, train.max_steps, run))
        elif train.validate_every:
            validate()
        is_watched = log.active and adapter_config(model) is not None
        probe = stack.enter_context(RadiusProbe(model)) if is_watched else None
        stream = batches(progress.step)
        while not progress.is_over(train.max_steps):
            rates = stages.set_learning_rates(progress.step)
            is_logged = _is_due(progress.step + 1, train.log_every, train.max_steps) or progress.step == 0
            of_step = [next(stream) for _ in range(train.accumulate)]
            terms, norms = optimize(fabric, stages, of_step, options.clip_norm, by_group=is_logged, passes=passes)
            progress.count_step(skipped=norms is None)
            progress.seconds = time.perf_counter() - started
            if average is not None and norms is not None:
                average.update(progress.step)
            log.step(progress.step)
            if is_logged:
                with whole_parameters(stages.module, adapters_only=True):
                    if log.active:
                        values = _of_step(progress, terms, rates, norms or {})
                        radii = probe.latest() | probe.histograms() if probe else {}
                        log.write(progress.step, {**values, **radii, **(radius.metrics if radius else {})})
                        losses = (f"{name} {float(terms[key]):.3g}" for name, key in _SHOWN.items() if key in terms)
                        log.step(progress.step, "  ".join(losses))
            if progress.bad_steps >= train.max_bad_steps:
                found = f"not finite for {count_of(train.max_bad_steps, 'step')} in a row, up to step {progress.step}"
                remedy = "try a lower optim.lr, a longer optim.warmup or train.precision=32-true"
                raise TrainingFailed(f"the loss or its gradient was {found}; {remedy}")
            if radius is not None:
                radius.update(progress.step, float(terms[MATCHED]))
            val = None
            if _is_due(progress.step, train.validate_every, train.max_steps):
                with kept():
                    val, is_best = validate()
                    if is_best:
                        _save_weights(stages, run, "best")
                progress.stopped = 0 < train.patience <= progress.waited and progress.step < train.max_steps
            if not progress.is_over(train.max_steps) and (report := stages.advance(progress.step, val)):
                progress.waited = 0
                if average is not None:
                    average.follow()
                log.message(f"after step {progress.step}, {report}")
                log.write(progress.step, {"train/stage": stages.number})
            stop = interrupted()
            is_last = progress.is_over(train.max_steps)
            if stop or (train.save_every and (is_last or progress.step % train.save_every == 0)):
                _save_state(stages, run, progress, {"radius": radius, "average": average, "passes": passes})
            if stop:
                raise Interrupted(progress.step)
        if not train.validate_every:
            progress.best_step = progress.step
        with kept():
            _save_weights(stages, run, *(("last",) if train.validate_every else ("last", "best")))
        for line in _how_it_ended(progress, train):
            log.message(line)
    return progress


def _validate(
    fabric: Fabric,
    stages: Stages,
    validation: Validation,
    passes: Passes,
    train: TrainOptions,
    progress: Progress,
    log: RunLog,
) -> tuple[float, bool]:
    """Validate the model as it is, and write and show what is found.

    Returns the matched loss, and whether this is the best step so far; before the first step, what is found is the
    base's.
    """
    together = train.accumulate * fabric.world_size
    found = validation.measure(fabric, stages, passes, together, progress.base or None)
    log.write(progress.step, {f"tune/{key}": value for key, value in found.items()})
    values, seconds, rule = judged(found), found["seconds"], Rule.parse(train.best)
    progress.validation_seconds += seconds
    progress.seconds += seconds  # until the next step measures all of them
    is_best = progress.step > 0 and progress.count_validation(values, rule)
    best = f"best step so far: {progress.best_step}; " if progress.step else ""
    short = "  ".join(f"{name} {values[name]:.3g}" for name in dict.fromkeys([LOSS, rule.metric]))
    log.validation(progress.step, f"{shown(values, progress.base, rule)}  ({best}{seconds:.1f} s)", short)
    if not progress.step:
        progress.base = values
    return found[MATCHED], is_best


def _goes_on(progress: Progress, max_steps: int, run: RunFolder) -> str:
    """Where a run goes on."""
    best = "; ".join(f"{name} {value:.3g}" for name, value in progress.best.items())
    so_far = f"; best step so far: {progress.best_step} ({best})" if progress.best else ""
    if progress.is_over(max_steps):
        return f"the training of this run ended after step {progress.step} ({run.resume}): no step is left{so_far}"
    return f"goes on after step {progress.step} of {max_steps} ({run.resume}){so_far}"


def _how_it_ended(progress: Progress, train: TrainOptions) -> Iterator[str]:
    """What a user should know of the end of a run, and of the step that it keeps."""
    if progress.stopped:
        ended = f"ended after step {progress.step} of {train.max_steps}"
        many = f"{train.patience} validations in a row" if train.patience > 1 else "one validation"
        why = f"{many} found nothing better than step {progress.best_step}, which is kept"
        yield f"{ended}: {why}; the learning rates had not come to their end"
    if progress.best and progress.shortfall > 0:
        values = ", ".join(f"{name} {value:.3g}" for name, value in progress.best.items())
        missed = f"no step fulfils {Rule.parse(train.best).where}"
        yield f"train.best: {missed}; kept is the one nearest to it, {progress.best_step} ({values})"


def _is_due(step: int, every: int, last: int) -> bool:
    """Whether something happens after `step`: every so many steps (0: never), and at the end."""
    return bool(every) and (step % every == 0 or step == last)


def _save_weights(stages: Stages, run: RunFolder, *names: str) -> None:
    with whole_parameters(stages.module, on_cpu=True):
        if stages.fabric.is_global_zero:
            for name in names:
                run.save(stages.model, name)


def _save_state(
    stages: Stages, run: RunFolder, progress: Progress, parts: Mapping[str, RadiusControl | Average | Passes | None]
) -> None:
    generators = random_generators(stages.fabric.device, stages.fabric.world_size)
    of_optimizer = optimizer_state(stages.module, stages.raw_optimizer)
    values = {**asdict(progress), "stages": stages.state_dict()}
    values |= {name: {} if part is None else part.state_dict() for name, part in parts.items()}
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
