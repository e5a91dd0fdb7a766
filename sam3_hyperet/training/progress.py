"""Counters of a run, which a saved state brings back."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sam3_hyperet.training.choice import Rule


@dataclass
class Progress:
    """Counters of a run.

    Attributes:
        step: optimizer steps so far, the skipped ones included.
        skipped_steps: steps without a finite loss and gradient, which changed nothing.
        bad_steps: how many of them are the last ones, in a row.
        seconds: of training, over all starts of the run.
        validation_seconds: how many of them were spent on validation.
        base: what validation found before the first step.
        best_step: the step whose weights are kept; 0 before the first validation.
        best: what validation found there, of what the rule names.
        shortfall: how far that step is from the rule's conditions; 0 where it fulfils them.
        waited: validations since then, or since the present stage began.
        stopped: whether patience has ended the run.
        is_judged: whether the present step has been validated, if it was due; False in a state saved before that.
    """

    step: int = 0
    skipped_steps: int = 0
    bad_steps: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0
    base: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    best: dict[str, float] = field(default_factory=dict)
    shortfall: float = math.inf
    waited: int = 0
    stopped: bool = False
    is_judged: bool = True

    def count_step(self, *, skipped: bool) -> None:
        """Count one step more."""
        self.step += 1
        self.is_judged = False
        self.skipped_steps += skipped
        self.bad_steps = self.bad_steps + 1 if skipped else 0

    def count_validation(self, values: Mapping[str, float], rule: Rule) -> bool:
        """Note what validation found after the present step; returns whether it is the best step so far."""
        rank = rule.rank(values, self.base)
        is_best = not self.best or rank < rule.rank(self.best, self.base)
        self.waited = 0 if is_best else self.waited + 1
        if is_best:
            self.best_step, self.best = self.step, {name: values[name] for name in rule.metrics}
            self.shortfall = rank[0]
        return is_best

    def is_over(self, max_steps: int) -> bool:
        """Whether no step is left."""
        return self.stopped or self.step >= max_steps

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the counters of a saved state; an earlier version's was judged."""
        vars(self).update((name, state[name]) for name in asdict(self) if name != "is_judged")
        self.is_judged = state.get("is_judged", True)
