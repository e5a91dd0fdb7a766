"""What every site of adjustments is made of: modules that say where they are and can be switched off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor, nn

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig

_Module = TypeVar("_Module", bound=nn.Module)


class SiteAdjustment(nn.Module):
    """One adjustment of (…, D) features, or none while it is switched off.

    Args:
        name: of the site in metrics.
    """

    is_adapter = True

    def __init__(self, name: str, adjustment: HyperET) -> None:
        super().__init__()
        self.name = name
        self.hyperet = adjustment
        self.enabled = True

    def site_name(self, child: str) -> str:
        """Name in metrics of the adjustment that is this module's descendant `child`."""
        return self.name

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.hyperet(x) if self.enabled else x
        return y


class PyramidAdjustment(nn.Module):
    """One adjustment per chosen level of a feature pyramid, or one shared by all of them.

    Args:
        name: of the site in metrics; each level has its own, "<name>.<level>".
        levels: the adjusted levels' indices, highest resolution first.
        adjustments: one for each of `levels`, or a single one for all.
    """

    is_adapter = True

    def __init__(self, name: str, levels: Sequence[int], adjustments: Sequence[HyperET]) -> None:
        super().__init__()
        self.name = name
        self.indices = tuple(levels)
        self.adjustments = nn.ModuleList(adjustments)
        self.enabled = True

    def level(self, index: int) -> HyperET:
        """The adjustment of pyramid level `index`."""
        adjustment = self.adjustments[self.indices.index(index) if len(self.adjustments) > 1 else 0]
        assert isinstance(adjustment, HyperET)
        return adjustment

    def site_name(self, child: str) -> str:
        """Name in metrics of the adjustment that is this module's descendant `child`: "fpn.<level>"."""
        if len(self.adjustments) == 1:
            return self.name
        return f"{self.name}.{self.indices[int(child.rpartition('.')[2])]}"

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Adjust the chosen levels of a pyramid of (B, D, H, W) features; the others pass through."""
        if not self.enabled:
            return list(features)
        return [self.level(i)(x) if i in self.indices else x for i, x in enumerate(features)]


def adjustments(config: HyperETConfig, count: int, dim: int, channel_dim: int, like: nn.Module) -> list[HyperET]:
    """`count` new adjustments of `dim` channels, on the device of `like`.

    Raises:
        ConfigError: an option that `dim` channels cannot have.
    """
    device = next(like.parameters()).device
    try:
        return [_adjustment(config, dim, channel_dim).to(device) for _ in range(count)]
    except ValueError as error:
        raise ConfigError(f"hyperet: {error}") from error


def _adjustment(config: HyperETConfig, dim: int, channel_dim: int) -> HyperET:
    return HyperET(
        dim,
        structure=config.structure,
        geometry=config.geometry,
        curvature=config.curvature,
        learn_curvature=config.learn_curvature,
        residual=config.residual,
        learn_residual=config.learn_residual,
        block_size=config.block_size,
        bandwidth=config.bandwidth,
        channel_dim=channel_dim,
    )


def chosen(option: str, indices: Sequence[int] | None, present: int, what: str) -> tuple[int, ...]:
    """The chosen ones of `present` levels, layers or blocks; None chooses all.

    Raises:
        ConfigError: one that is not there.
    """
    for index in indices or ():
        if not 0 <= index < present:
            raise ConfigError(
                f"{option}={list(indices or ())}: the model has no {what} {index}; expected from 0 to {present - 1}"
            )
    return tuple(range(present) if indices is None else indices)


def extended(module: nn.Module, cls: type[_Module], parent: type[nn.Module]) -> _Module:
    """`module`, of class `parent`, as `cls`, its subclass; `module` itself where it already is one."""
    return module if isinstance(module, cls) else converted(stock(module, parent), cls)


def stock(module: nn.Module, cls: type[_Module]) -> _Module:
    """`module`, which is of class `cls` itself.

    Raises:
        ConfigError: of another class, whose behaviour a replacement would drop, or with a compiled forward.
    """
    if type(module) is not cls:
        raise ConfigError(f"hyperet: found a {type(module).__name__} in the model; expected SAM 3's {cls.__name__}")
    if "forward" in vars(module):
        raise ConfigError(f"hyperet: the model's {cls.__name__} is compiled; inject first, then compile")
    assert isinstance(module, cls)
    return module
