"""Bias tuning as a control (BitFit [Ben Zaken et al. 2022]): the base's own biases train, chosen by name."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.module import AdapterModule
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.parameters import base_state_dict, unread


class BiasTuning(AdapterModule):
    """The biases `names` of a model, tuned, and the base's values, which replace them while it is switched off."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__("bitfit")
        self.names = names
        self._tuned: list[nn.Parameter] = []  # filled while switched off
        self._owners = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
        for place, parameter in enumerate(self._parameters_in_place()):
            self.register_buffer(f"base_{place}", parameter.detach().clone(), persistent=False)

    @property
    def enabled(self) -> bool:
        return not self._tuned

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        if enabled == self.enabled:
            return
        new = self._tuned if enabled else [nn.Parameter(base, requires_grad=False) for base in self.buffers()]
        self._tuned = [] if enabled else self._parameters_in_place()
        for (owner, attribute), parameter in zip(self._owners, new, strict=True):
            setattr(owner, attribute, parameter)

    def adapter_parameters(self, prefix: str) -> list[tuple[str, nn.Parameter]]:
        """Tuned biases by their base names, switched on or not."""
        return list(zip(self.names, self._tuned or self._parameters_in_place(), strict=True))

    def base_tensors(self, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**others, **dict(zip(self.names, self.buffers(), strict=True))}

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        return [(parameter, parameter.detach().clone()) for _, parameter in self.adapter_parameters("")]

    @torch.no_grad()
    def remove(self, model: nn.Module) -> None:
        self.enabled = True
        for parameter, base in zip(self._parameters_in_place(), self.buffers(), strict=True):
            parameter.copy_(base)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        aside: Any = nn.ParameterList(self._tuned)  # no module has them while they are switched off
        self._tuned = list(aside._apply(fn))
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _parameters_in_place(self) -> list[nn.Parameter]:
        return [getattr(owner, attribute) for owner, attribute in self._owners]


def install_bias_tuning(model: host.Sam3Image, config: HyperETConfig, chosen: Collection[str] | None = None) -> None:
    """Tune the biases `chosen`, or those whose names match a pattern of `config.biases`; each pattern must match one.

    Raises ConfigError for a pattern that matches none, and for a chosen name that is no bias that trains.
    """
    if not config.biases:
        raise ConfigError("adapter=bitfit: biases is empty; expected regular expressions")
    names = [name for name in base_state_dict(model) if name.endswith("bias") and not name.startswith(unread(model))]
    if chosen is not None:
        if odd := [name for name in chosen if name not in names]:
            raise ConfigError(f"adapter=bitfit: {odd[0]} is not among the {len(names)} biases of the base that train")
        names = [name for name in names if name in chosen]
        model.hyperet_control = BiasTuning(model, names).train(model.training)
        return
    for pattern in config.biases:
        try:
            if not any(re.search(pattern, name) for name in names):
                raise ConfigError(f"biases: {pattern!r} is found in no bias's name; these are {', '.join(names[:3])} …")
        except re.error as error:
            raise ConfigError(f"biases: {pattern!r} is not a regular expression ({error})") from error
    names = [name for name in names if any(re.search(pattern, name) for pattern in config.biases)]
    model.hyperet_control = BiasTuning(model, names).train(model.training)
