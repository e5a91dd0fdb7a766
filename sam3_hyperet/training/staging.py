"""What changes at the boundary of two stages: which parameters train, their optimizer, and what wraps the model."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.losses.grounding import Counts, GroundingLoss
from sam3_hyperet.training.optimizer import KEY_LAYERS, REST, TRUNK, build_optimizer, set_learning_rates
from sam3_hyperet.training.options import OptimizerOptions, StageOptions
from sam3_hyperet.training.stages import StageReport, set_stage

_GROUPS_OF_STAGE = {2: (KEY_LAYERS,), 3: (REST, TRUNK)}


class ModelAndLoss(nn.Module):
    """Model and loss as one module, so that Fabric's wrapper sees plain tensors come out."""

    def __init__(self, model: host.Sam3Image, loss: GroundingLoss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: host.BatchedDatapoint, step: Counts | None = None) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.loss(self.model, batch, self.model(batch), step)
        return terms


class Staging:
    """The stage that a run is in.

    What it has to remember is in `progress`: the stage, the step at which each began, and how long the tuning loss has
    not fallen. Call `begin` before the first step.

    Args:
        progress: the run's counters, which a saved state brings back.
        say: takes one line for the user at each boundary.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        fabric: Fabric,
        model: host.Sam3Image,
        loss: GroundingLoss,
        options: StageOptions,
        optim: OptimizerOptions,
        max_steps: int,
        progress: dict[str, float],
        say: Callable[[str], None],
    ) -> None:
        self._fabric, self._model, self._loss = fabric, model, loss
        self._options, self._optim, self._max_steps = options, optim, max_steps
        self._progress, self._say = progress, say
        self._boundaries = options.steps(max_steps)
        if options.plateau and options.number == 3:
            raise ConfigError("stage.plateau: stage 3 is the last; expected stage.number=1 or 2")
        progress.update({"stage": options.number, "stage/best": math.inf, "stage/waited": 0})

    @property
    def number(self) -> int:
        """The present stage."""
        return int(self._progress["stage"])

    def begin(self, previous: torch.optim.Optimizer | None = None) -> StageReport:
        """Let the present stage's parameters train; those that went on before keep their optimizer state."""
        report = set_stage(self._model, self.number, self._options.layers)
        starts = {
            group: int(self._progress.get(f"stage/{stage}_began", 0))
            for stage, groups in _GROUPS_OF_STAGE.items()
            for group in groups
        }
        key_layers = self._options.layers if self._options.number < 3 else ()
        self.module = self._fabric.setup_module(ModelAndLoss(self._model, self._loss))
        optimizer = build_optimizer(  # of the parameters as they are now: sharding replaces them
            self._model, self._optim, self._max_steps, key_layers=key_layers, starts=starts, previous=previous
        )
        self.optimizer = self._fabric.setup_optimizers(optimizer)
        return report

    def set_learning_rates(self, step: int) -> dict[str, float]:
        """For the step after `step` steps; the rates by group."""
        return set_learning_rates(self.raw_optimizer, self._optim, step, self._max_steps)

    @property
    def raw_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer itself, of which Fabric's is a wrapper."""
        raw: torch.optim.Optimizer = self.optimizer.optimizer  # type: ignore[attr-defined]
        return raw

    def advance(self, step: int, tuning_loss: float | None) -> bool:
        """Begin the next stage if its time has come after `step` steps; whether it has.

        Args:
            tuning_loss: if it was measured at this step.
        """
        if not self._is_due(step, tuning_loss):
            return False
        stage = self.number + 1
        self._progress.update({"stage": stage, f"stage/{stage}_began": step, "stage/best": math.inf, "stage/waited": 0})
        del self.module  # it holds on to the parameters of the stage before
        self._say(f"after step {step}, {self.begin(previous=self.raw_optimizer)}")
        return True

    def _is_due(self, step: int, tuning_loss: float | None) -> bool:
        if not self._options.plateau:
            passed = self.number - self._options.number
            return passed < len(self._boundaries) and step >= self._boundaries[passed]
        if tuning_loss is None or self.number == self._options.last:
            return False
        if tuning_loss < self._progress["stage/best"]:
            self._progress.update({"stage/best": tuning_loss, "stage/waited": 0})
        else:
            self._progress["stage/waited"] += 1
        return self._progress["stage/waited"] >= self._options.plateau
