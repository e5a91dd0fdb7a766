"""Adjustments behind any module that returns one tensor of features."""

from collections.abc import Sequence
from functools import cache
from typing import Any, SupportsIndex

from torch import Tensor, nn

from sam3_hyperet.adapters.conversion import original_class
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.sites.site import SiteAdjustment, folded

BEHIND = "its modules are no nn.Linear or nn.Conv2d that alone feed it"


class OutputAdjustment(SiteAdjustment):
    """An adjustment behind one module, or behind several that share it."""

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        wrapped = [module for module in model.modules() if isinstance(module, AdjustedOutput)]
        layers = [module for module in wrapped if module.hyperet_adjustment is self]
        for layer in layers:
            if obstacle := _obstacle(layer, layers, model):
                site = self.name.partition(".")[0]
                raise ConfigError(f"site {site} does not fold into the base weights: {obstacle}")
        return [pair for layer in layers for pair in folded(layer, self.hyperet, self.name, self.dial)]  # type: ignore[arg-type]


class AdjustedOutput(nn.Module):
    """A module, of the class that this one is mixed into, whose output is adjusted."""

    hyperet_adjustment: OutputAdjustment
    hyperet_module: str
    """The module's name in the encoder."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        output = super().forward(*args, **kwargs)
        if not isinstance(output, Tensor):
            found = f"returned a {type(output).__name__}, expected one tensor of features"
            raise ConfigError(f"{self.hyperet_adjustment.name}: the module {found}; wrap one inside it")
        channels, dim = self.hyperet_adjustment.hyperet.dim, self.hyperet_adjustment.hyperet.channel_dim
        width = output.shape[dim] if -output.ndim <= dim < output.ndim else "no channels"
        if width != channels:
            found = f"{tuple(output.shape)}, {width} along axis {dim}"
            raise ConfigError(
                f"{self.hyperet_module}: the module returned {found}; its adjustment is of {channels}: wrap it with "
                "its own channels= and channel_dim="
            )
        adjusted: Tensor = self.hyperet_adjustment(output)
        return adjusted

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """As of the class that this one is mixed into, by which a pickle names it: the mixture is in no module."""
        reduced: Any = super().__reduce_ex__(protocol)
        mro = type(self).__mro__  # it may itself have been subclassed
        return _empty, (mro[mro.index(AdjustedOutput) + 1],), *reduced[2:]


def _obstacle(layer: AdjustedOutput, layers: Sequence[nn.Module], model: nn.Module) -> str | None:
    """Why an adjustment behind all of `layers` does not fold into this one of them, if it does not."""
    cls, name = original_class(layer), layer.hyperet_module
    if cls not in (nn.Linear, nn.Conv2d):  # a subclass may standardise its weight
        return f"{BEHIND}; {name} is a {cls.__name__}"
    if (dim := layer.hyperet_adjustment.hyperet.channel_dim) not in ((-1,) if cls is nn.Linear else (1, -3)):
        return f"the channels of {name} are adjusted along axis {dim}, which is not that of its outputs"
    for key in ("weight", "bias"):
        parameter = layer._parameters.get(key)
        if getattr(layer, key) is not parameter:  # as of a parametrization, or of spectral_norm's hook
            return f"the {key} of {name} is computed from other parameters"
        for other, module in model.named_modules():
            if parameter is not None and module not in layers and _holds(module, parameter):
                return f"the {key} of {name} is also that of {other}, which is not adjusted by it"
    return None


def _holds(module: nn.Module, parameter: nn.Parameter) -> bool:
    return any(own is parameter for own in module._parameters.values())


@cache
def adjusted_class(cls: type[nn.Module]) -> type[AdjustedOutput]:
    """A class of modules `cls` with adjusted outputs."""
    return type(f"HyperET{cls.__name__}", (AdjustedOutput, cls), {"__module__": __name__})


def _empty(cls: type[nn.Module]) -> AdjustedOutput:
    """A module of class `cls` with adjusted outputs, without any state yet."""
    adjusted = adjusted_class(cls)  # type: ignore[arg-type]  # a class is hashable
    return adjusted.__new__(adjusted)
