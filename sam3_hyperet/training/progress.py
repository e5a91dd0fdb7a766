"""How far a run is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


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

    def state_dict(self) -> dict[str, Any]:
        """All counters by name."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the counters of a `state_dict`."""
        for name in asdict(self):
            setattr(self, name, state[name])
