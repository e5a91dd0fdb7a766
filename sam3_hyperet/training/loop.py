"""The training loop: setup, steps with their checks, the best and the last weights on disk."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

from lightning_fabric import Fabric
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import UserError
from sam3_hyperet.losses.grounding import MATCHED, GroundingLoss
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.latest_radii import LatestRadii
from sam3_hyperet.training.choice import LOSS, Rule
from sam3_hyperet.training.curvature_schedule import radius_control
from sam3_hyperet.training.distributed import optimizer_state, whole_parameters
from sam3_hyperet.training.ema import Average
from sam3_hyperet.training.gathering import Stopped
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

    Raises Interrupted once `interrupted` has returned true, or a validation was stopped, which the run that goes on
    does again; and TrainingFailed after `max_bad_steps` consecutive steps without a finite loss and gradient.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(model.eval)
        loop = _Loop(fabric, model, loss, validation, options, run)
        stack.callback(loop.log.close)
        try:
            loop.begin()
            stream = batches(loop.progress.step)
            while not loop.is_over:
                loop.step([next(stream) for _ in range(options.train.accumulate)])
                stop = interrupted()
                if not stop:  # else the run that goes on validates first: there may be no time for it now
                    loop.save_before_validation()
                    stop = loop.validate_and_advance() and interrupted()
                loop.save_if_due(stop=stop)
                if stop:
                    raise Interrupted(loop.progress.step)
        except Stopped:
            interrupted()  # all processes are to know of the signal
            if loop.progress.step:  # before the first, there is nothing to go on from
                loop.save_if_due(stop=True)
            raise Interrupted(loop.progress.step) from None
        loop.end()
    return loop.progress


class _Loop:
    """A run between two steps: what its steps change, and where it is written.

    Attributes:
        progress: counters.
        log: active in the first process alone; to be closed.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: host.Sam3Image,
        loss: GroundingLoss,
        validation: Validation,
        options: FitOptions,
        run: RunFolder,
    ) -> None:
        train = options.train
        assert train.max_steps is not None, "train.epochs alone: FitOptions.of_images makes steps of it"
        self._fabric, self._model, self._validation, self._run = fabric, model, validation, run
        self._train, self._steps, self._clip_norm = train, train.max_steps, options.clip_norm
        self.progress = Progress()
        self._saved_step = 0
        self._stages = Stages(fabric, model, loss, options.stage, options.optim, self._steps)
        self._radius = radius_control(model, options.radius, self._steps)
        recomputes = bool(train.checkpoint_activations)
        repeats, contrasts = train.memory == "auto", loss.weights.alignment > 0
        self._passes = Passes(train.prompts_at_once or 0, recomputes, repeats=repeats, contrasts=contrasts)
        self._saved = read_state(run.resume, fabric.world_size) if run.resume else None
        if self._saved is not None:
            counters = self._saved["progress"]
            self.progress.load_state_dict(counters)
            self._stages.load_state_dict(counters["stages"])
            if self._passes.repeats:  # they were chosen, or made smaller, by the run so far
                self._passes.load_state_dict(counters.get("passes", {}))
        self._stages.begin()
        self._average = Average(model, train.ema) if train.ema else None
        self.log = RunLog(
            run.path,
            self._steps,
            start=self.progress.step,
            is_judged=self.progress.is_judged,
            active=fabric.is_global_zero,
            options=options.logger,
        )
        self._is_watched = self.log.active and adapter_config(model) is not None
        self._started = time.perf_counter() - self.progress.seconds

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return self.progress.is_over(self._steps)

    @property
    def _validates(self) -> bool:
        return _is_due(self.progress.step, self._train.validate_every, self._steps)

    @property
    def _saves(self) -> bool:
        every = self._train.save_every
        return bool(every) and (self.is_over or self.progress.step % every == 0)

    def begin(self) -> None:
        """Take over a saved state, or validate the base."""
        if self._run.resume and self._saved is not None:
            state, self._saved = self._saved, None
            optimizer = self._stages.raw_optimizer
            restore_state(self._run.resume, state, self._model, optimizer, self._fabric.global_rank)
            if self._radius is not None:
                self._radius.load_state_dict(state["progress"]["radius"])
            if self._average is not None:
                self._average.load_state_dict(state["progress"]["average"])
            self._saved_step = self.progress.step
            self.log.message(_goes_on(self.progress, self._steps, self._run))
            if not self.progress.is_judged:
                self.validate_and_advance()
                self._save_state()
        elif self._train.validate_every:
            self._validate()

    def step(self, batches: Sequence[host.BatchedDatapoint]) -> None:
        """Train one step on the batches. Raises TrainingFailed after too many without a finite loss."""
        train, progress = self._train, self.progress
        rates = self._stages.set_learning_rates(progress.step)
        is_logged = _is_due(progress.step + 1, train.log_every, self._steps) or progress.step == 0
        how = self._fabric, self._stages, batches, self._clip_norm
        probe = LatestRadii(self._model) if is_logged and self._is_watched else None  # it keeps features of all sites
        with probe or contextlib.nullcontext():
            terms, norms = optimize(*how, by_group=is_logged, passes=self._passes)
        progress.count_step(skipped=norms is None)
        progress.seconds = time.perf_counter() - self._started
        if self._average is not None and norms is not None:
            self._average.update(progress.step)
        self.log.step(progress.step)
        if is_logged:
            self._log_step(terms, rates, norms or {}, probe)
        if progress.bad_steps >= train.max_bad_steps:
            found = f"not finite for {count_of(train.max_bad_steps, 'step')} in a row, up to step {progress.step}"
            remedy = "try a lower optim.lr, a longer optim.warmup or train.precision=32-true"
            raise TrainingFailed(f"the loss or its gradient was {found}; {remedy}")
        if self._radius is not None:
            self._radius.update(progress.step, float(terms[MATCHED]))

    def validate_and_advance(self) -> bool:
        """Do what follows a step: validate where it is time to, and begin the next stage if its time has come.

        Whether it has validated.
        """
        validates = self._validates
        self._advance(self._validate_if_due())
        self.progress.is_judged = True
        return validates

    def _validate_if_due(self) -> float | None:
        """The matched loss on the tuning images, where it is time to validate; the best weights are saved."""
        train, progress = self._train, self.progress
        if not self._validates:
            return None
        with self._kept():
            val_loss, is_best = self._validate()
            if is_best:
                self._save_weights("best")
        progress.stopped = 0 < train.patience <= progress.waited and progress.step < self._steps
        return val_loss

    def _advance(self, val_loss: float | None) -> None:
        """Begin the next stage if its time has come."""
        step = self.progress.step
        if not self.is_over and (report := self._stages.advance(step, val_loss)):
            self.progress.waited = 0
            if self._average is not None:
                self._average.follow()
            self.log.message(f"after step {step}, {report}")
            self.log.write(step, {"train/stage": self._stages.number})

    def save_before_validation(self) -> None:
        """Save the state that is due where a validation comes first: a run that is killed in it repeats it alone."""
        if self._validates and self._saves:
            self._save_state()

    def save_if_due(self, *, stop: bool) -> None:
        """Save the state every `save_every` steps, unless it has been, after the last one, and where the run stops."""
        is_saved = self._saved_step == self.progress.step and not self.is_over
        if stop or (self._saves and not is_saved):
            self._save_state()

    def end(self) -> None:
        """Save the last weights, and say how the run ended."""
        validated = bool(self._train.validate_every)
        if not validated:
            self.progress.best_step = self.progress.step
        with self._kept():
            self._save_weights(*(("last",) if validated else ("last", "best")))
        for line in _how_it_ended(self.progress, self._train):
            self.log.message(line)

    def _kept(self) -> contextlib.AbstractContextManager[None]:
        """Context in which the model has the weights that the run is to keep."""
        return self._average.applied() if self._average else contextlib.nullcontext()

    def _log_step(
        self,
        terms: Mapping[str, Tensor],
        rates: Mapping[str, float],
        norms: Mapping[str, float],
        probe: LatestRadii | None,
    ) -> None:
        with whole_parameters(self._stages.module, adapters_only=True):
            if self.log.active:
                step = self.progress.step
                radii = probe.latest() | probe.histograms() if probe else {}
                values = {**_of_step(self.progress, terms, rates, norms), **radii}
                self.log.write(step, {**values, **(self._radius.metrics if self._radius else {})})
                losses = (f"{name} {float(terms[key]):.3g}" for name, key in _SHOWN.items() if key in terms)
                self.log.step(step, "  ".join(losses))

    def _validate(self) -> tuple[float, bool]:
        """Validate the model as it is, and write and show what is found.

        Returns the matched loss, and whether this is the best step so far; before the first step, what is found is
        the base's.
        """
        progress, rule = self.progress, Rule.parse(self._train.best)
        together = self._train.accumulate * self._fabric.world_size
        measure = self._validation.measure
        found = measure(self._fabric, self._stages, self._passes, together, progress.base or None)
        self.log.write(progress.step, {f"tune/{key}": value for key, value in found.items()})
        values, seconds = judged(found), found["seconds"]
        progress.validation_seconds += seconds
        progress.seconds += seconds  # until the next step measures all of them
        is_best = progress.step > 0 and progress.count_validation(values, rule)
        best = f"best step so far: {progress.best_step}; " if progress.step else ""
        short = "  ".join(f"{name} {values[name]:.3g}" for name in dict.fromkeys([LOSS, rule.metric]))
        self.log.validation(progress.step, f"{shown(values, progress.base, rule)}  ({best}{seconds:.1f} s)", short)
        if not progress.step:
            progress.base = values
        return found[MATCHED], is_best

    def _save_weights(self, *names: str) -> None:
        with whole_parameters(self._stages.module, on_cpu=True):
            if self._fabric.is_global_zero:
                for name in names:
                    self._run.save(self._model, name)

    def _save_state(self) -> None:
        is_of_new_step, self._saved_step = self._saved_step != self.progress.step, self.progress.step
        stages, fabric = self._stages, self._fabric
        generators = random_generators(fabric.device, fabric.world_size)
        of_optimizer = optimizer_state(stages.module, stages.raw_optimizer)
        parts = {"stages": stages, "radius": self._radius, "average": self._average, "passes": self._passes}
        with whole_parameters(stages.module, on_cpu=True):
            if fabric.is_global_zero:
                states = {name: {} if part is None else part.state_dict() for name, part in parts.items()}
                values = {**asdict(self.progress), **states}
                given = self._model, of_optimizer, values, generators
                save_state(self._run.path / STATE_FILE, *given, is_of_new_step=is_of_new_step)


def _goes_on(progress: Progress, max_steps: int, run: RunFolder) -> str:
    """Where a run goes on."""
    best = "; ".join(f"{name} {value:.3g}" for name, value in progress.best.items())
    so_far = f"; best step so far: {progress.best_step} ({best})" if progress.best else ""
    if not progress.is_judged:
        return f"goes on after step {progress.step} of {max_steps}, with what was to follow it ({run.resume}){so_far}"
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
