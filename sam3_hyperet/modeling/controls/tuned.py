"""Tuning of the base's own biases (BitFit [Ben Zaken et al. 2022]) or LayerNorms [Zhao et al. 2024], chosen by name."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.module import SwitchedAdapter, interpolated
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.parameters import base_state_dict, unread


class TunedParameters(SwitchedAdapter):
    """The base's parameters `names`, tuned, and the base's values.

    Where the control is switched off or its dial is not 1, other parameters are in the place of the tuned ones, which
    are set aside: the base's values, or those of the dial when it was set.
    """

    def __init__(self, model: nn.Module, adapter: str, names: list[str]) -> None:
        super().__init__(adapter)
        self.names = names
        self._aside: list[nn.Parameter] = []  # the tuned ones, where others are in their places
        self._owners = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
        for place, parameter in enumerate(self._parameters_in_place()):
            self.register_buffer(f"base_{place}", parameter.detach().clone(), persistent=False)

    def _switch(self) -> None:
        """Put what the switch and the dial say in place."""
        tuned = self._aside or self._parameters_in_place()
        dial = self._dial if self._enabled else 0.0
        self._aside = [] if dial == 1.0 else tuned
        values = tuned if dial == 1.0 else [nn.Parameter(value, requires_grad=False) for value in self._values(dial)]
        for (owner, attribute), parameter in zip(self._owners, values, strict=True):
            setattr(owner, attribute, parameter)

    def _values(self, dial: float) -> list[Tensor]:
        """base + dial (tuned - base)."""
        if dial == 0.0:
            return list(self.buffers())
        tuned = self._aside or self._parameters_in_place()
        pairs = zip(self.buffers(), (parameter.detach().clone() for parameter in tuned), strict=True)
        return [interpolated(base, new, dial) for base, new in pairs]

    def adapter_parameters(self, prefix: str) -> list[tuple[str, nn.Parameter]]:
        """Tuned parameters by their base names, in place or not."""
        return list(zip(self.names, self._aside or self._parameters_in_place(), strict=True))

    def base_tensors(self, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**others, **dict(zip(self.names, self.buffers(), strict=True))}

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        tuned = self._aside or self._parameters_in_place()
        return list(zip(tuned, self._values(self._dial), strict=True))

    @torch.no_grad()
    def remove(self, model: nn.Module) -> None:
        self._enabled, self._dial = True, 1.0
        self._switch()
        for parameter, base in zip(self._parameters_in_place(), self.buffers(), strict=True):
            parameter.copy_(base)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        aside: Any = nn.ParameterList(self._aside)  # no module has them while others are in their places
        self._aside = list(aside._apply(fn))
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _parameters_in_place(self) -> list[nn.Parameter]:
        return [getattr(owner, attribute) for owner, attribute in self._owners]


def install_tuned(model: host.Sam3Image, config: HyperETConfig, chosen: Collection[str] | None = None) -> None:
    """Tune the parameters `chosen`, or those whose names match a pattern of the configuration; each must match one.

    Raises ConfigError for a pattern that matches none, and for a chosen name that is none of the control's.
    """
    option, what = ("norms", "LayerNorm") if config.adapter == "ln" else ("biases", "bias")
    patterns: tuple[str, ...] = getattr(config, option)
    if not patterns:
        raise ConfigError(f"adapter={config.adapter}: {option} is empty; expected regular expressions")
    names = _tunable(model, config.adapter)
    if chosen is not None:
        if odd := [name for name in chosen if name not in names]:
            kind = "biases" if option == "biases" else "parameters of LayerNorms"
            raise ConfigError(
                f"adapter={config.adapter}: {odd[0]} is not among the {len(names)} {kind} of the base that train"
            )
        names = [name for name in names if name in chosen]
    else:
        for pattern in patterns:
            try:
                if not any(re.search(pattern, name) for name in names):
                    some = ", ".join(names[:3])
                    raise ConfigError(f"{option}: {pattern!r} is found in no {what}'s name; these are {some} …")
            except re.error as error:
                raise ConfigError(f"{option}: {pattern!r} is not a regular expression ({error})") from error
        names = [name for name in names if any(re.search(pattern, name) for pattern in patterns)]
    model.hyperet_control = TunedParameters(model, config.adapter, names).train(model.training)


def _tunable(model: host.Sam3Image, adapter: str) -> list[str]:
    """Names of the biases, or of the weights and biases of LayerNorms, that are read."""
    names = [name for name in base_state_dict(model) if not name.startswith(unread(model))]
    if adapter == "bitfit":
        return [name for name in names if name.endswith("bias")]
    return [name for name in names if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.LayerNorm)]
