"""Schedules of the curvature c of all adjustments: by the step, or by plateaus of the loss.

c sets the scale of hyperbolic radius: the geometries depend on a feature v through √c‖v‖.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.attention import HyperbolicGates
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.training.options import RadiusOptions

_PREFIX = "radius_control/"


@dataclass
class _Course:
    """The present curvature and the memory of "dynamic"; flags are 0 or 1, so that all of it is numbers."""

    curvature: float
    loss: float = math.inf
    best: float = math.inf
    waited: int = 0
    improved: int = 0
    moves: int = 0
    direction: int = 1


def radius_control(model: nn.Module, options: RadiusOptions, max_steps: int) -> RadiusControl | None:
    """Control of the curvatures of a model with adapters; None for "constant"."""
    return None if options.schedule == "constant" else RadiusControl(model, options, max_steps)


class RadiusControl:
    """Curvature of all adjustments of a model, set after every step.

    "dynamic" waits until the smoothed loss has not improved for `patience` steps, then multiplies c by `factor`. At the
    next plateau it goes on in the same direction if the loss improved in between; otherwise it undoes the move and
    makes the opposite one. Where a bound forbids a move it turns around. Nothing is drawn at random.

    Raises ConfigError: a curvature that is also learnt, none to move, or a start outside the bounds of "dynamic".
    """

    def __init__(self, model: nn.Module, options: RadiusOptions, max_steps: int) -> None:
        self.options, self._max_steps = options, max_steps
        curved = (module for module in model.modules() if isinstance(module, HyperET | HyperbolicGates))
        self._curvatures = [module.curvature for module in curved if module.geometry != "euclidean"]
        chosen = f"radius.schedule={options.schedule}"
        if not self._curvatures:
            remedy = "choose a scheme, and a geometry other than euclidean"
            raise ConfigError(f"{chosen}: no adjustment has a curvature; {remedy}")
        if any(curvature.learnable for curvature in self._curvatures):
            raise ConfigError(f"{chosen} and hyperet.learn_curvature=true both move the curvature; choose one of them")
        config = adapter_config(model)
        assert config is not None
        self._start = float(config.curvature)
        if options.schedule == "dynamic" and not options.minimum <= self._start <= options.maximum:
            bounds = f"from radius.minimum={options.minimum} to radius.maximum={options.maximum}"
            raise ConfigError(f"hyperet.curvature={self._start}; {chosen} expects it {bounds}")
        self._course = _Course(self._start)

    def state_dict(self) -> dict[str, float]:
        """The curvature, and what "dynamic" remembers."""
        return asdict(self._course)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`. Raises CheckpointError for that of a run without this control."""
        names = [field.name for field in fields(_Course)]
        if missing := [_PREFIX + name for name in names if name not in state]:
            raise CheckpointError(f"the saved state has no {missing[0]}; expected one of a run with this radius=")
        self._course = _Course(**{name: state[name] for name in names})
        self._set()

    @property
    def metrics(self) -> dict[str, float]:
        """What is logged: the curvature, and for "dynamic" the number of moves and the smoothed loss."""
        names = ["curvature", "moves", "loss"] if self.options.schedule == "dynamic" else ["curvature"]
        return {_PREFIX + name: getattr(self._course, name) for name in names}

    def update(self, step: int, loss: float) -> None:
        """Set the curvature for the step that follows `step`, whose loss was `loss`."""
        if self.options.schedule == "dynamic":
            self._react(loss)
        else:
            progress = step / self._max_steps
            fraction = progress if self.options.schedule == "linear" else (1.0 - math.cos(math.pi * progress)) / 2.0
            assert self.options.target is not None
            self._course.curvature = self._start + (self.options.target - self._start) * fraction
        self._set()

    def _react(self, loss: float) -> None:
        o, course = self.options, self._course
        if not math.isfinite(loss):
            return
        past = loss if math.isinf(course.loss) else course.loss
        course.loss = o.smoothing * past + (1.0 - o.smoothing) * loss
        if course.loss < course.best * (1.0 - o.tolerance):
            course.best, course.waited, course.improved = course.loss, 0, 1
        else:
            course.waited += 1
        if course.waited == o.patience:
            course.curvature = self._moved()
            course.waited, course.improved, course.moves = 0, 0, course.moves + 1

    def _moved(self) -> float:
        o, course = self.options, self._course
        origin = course.curvature
        if course.moves and not course.improved:
            origin /= o.factor**course.direction
            course.direction = -course.direction
        if not o.minimum <= origin * o.factor**course.direction <= o.maximum:
            course.direction = -course.direction
        return min(o.maximum, max(o.minimum, origin * o.factor**course.direction))

    def _set(self) -> None:
        for curvature in self._curvatures:
            curvature.set(self._course.curvature)
