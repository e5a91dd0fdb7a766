"""Exponential moving average of the parameters that train."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sam3_hyperet.errors import CheckpointError

_RAMP = 10  # steps


class Average:
    """Averages ā ← d·ā + (1 − d)·θ of all parameters θ that train, in fp32, each from the step at which it begins to.

    After step t, d is min(decay, (1 + t) / (10 + t)): a short run is not tied to where it began. Curvatures that a
    schedule moves are no parameters, and stay at their present value.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self._averages: dict[str, Tensor] = {}
        self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """Begin with the parameters that have begun to train, where a new stage lets more of them."""
        for name, parameter in self._trained().items():
            self._averages.setdefault(name, parameter.detach().float().clone())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Count the parameters as they are after `step` steps."""
        decay = min(self._decay, (1 + step) / (_RAMP + step))
        for name, parameter in self._trained().items():
            self._averages[name].lerp_(parameter.float(), 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the model has the averages; behind it, its parameters are again what they were, exactly."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the parameters' names, on the CPU."""
        return {name: average.cpu() for name, average in self._averages.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict`. Raises CheckpointError for that of other parameters."""
        if odd := sorted(self._averages.keys() ^ state.keys()):
            raise CheckpointError(f"the saved state averages other parameters than this run, first {odd[0]}")
        for name, average in self._averages.items():
            average.copy_(state[name])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self._model.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange parameters and averages, in place: what is computed from a parameter sees that it has changed."""
        for name, parameter in self._trained().items():
            present = parameter.detach().clone()
            parameter.copy_(self._averages[name])
            self._averages[name].copy_(present)
