"""The parts that sites are made of: adapters of features, and the choice and replacement of SAM 3's modules."""

import inspect
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.adapters.gate import PromptGate
from sam3_hyperet.adapters.module import AdapterModule
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.hyperbolic.numerics import wide
from sam3_hyperet.modeling.config import HyperETConfig

_Module = TypeVar("_Module", bound=nn.Module)


class SiteAdjustment(AdapterModule):
    """One adjustment of (…, D) features, in the measure of the dial and of the prompt's gate, if there is one."""

    def __init__(
        self,
        name: str,
        adjustment: HyperET,
        obstacle: str = AdapterModule.obstacle,
        gate: PromptGate | None = None,
    ) -> None:
        super().__init__(name, obstacle)
        self.hyperet, self.gate = adjustment, gate

    def forward(self, x: Tensor, text: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """Adjust features of B prompts; a gate reads their text features (tokens, B, D) and padding (B, tokens)."""
        if not self.enabled:
            return x
        strength = _strength(self.dial, x)
        if self.gate is not None and self.dial != 0.0:
            strength = strength * self.gate(text, padding)
        y: Tensor = self.hyperet(x, strength=strength)
        return y


class PyramidAdjustment(AdapterModule):
    """One adjustment per chosen level of a feature pyramid, "<name>.<level>" in metrics, or one shared by all.

    `levels` are the indices of the adjusted levels, highest resolution first.
    """

    def __init__(
        self, name: str, levels: Sequence[int], adjustments: Sequence[HyperET], obstacle: str = AdapterModule.obstacle
    ) -> None:
        super().__init__(name, obstacle)
        self.indices = tuple(levels)
        self.adjustments = nn.ModuleList(adjustments)

    def level(self, index: int) -> HyperET:
        """The adjustment of pyramid level `index`."""
        adjustment = self.adjustments[self.indices.index(index) if len(self.adjustments) > 1 else 0]
        assert isinstance(adjustment, HyperET)
        return adjustment

    def site_name(self, child: str) -> str:
        if len(self.adjustments) == 1:
            return self.name
        return f"{self.name}.{self.indices[int(child.rpartition('.')[2])]}"

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Adjust the chosen levels of a pyramid of (B, D, H, W) features; the others pass through."""
        return [self.adjusted(i, x) for i, x in enumerate(features)]

    def adjusted(self, index: int, x: Tensor) -> Tensor:
        """The (B, D, H, W) features x of pyramid level `index`, adjusted if that is a chosen one."""
        if not self.enabled or index not in self.indices:
            return x
        y: Tensor = self.level(index)(x, strength=_strength(self.dial, x))
        return y


def _strength(dial: float, x: Tensor) -> Tensor | float:
    """`dial` for an adjustment of x: a tensor between 0, 1 and beyond, for each number would be compiled anew."""
    if dial in (0.0, 1.0):
        return dial
    return torch.full((), dial, dtype=wide(x.dtype), device=x.device)


def folded(
    layer: nn.Linear | nn.Conv2d, adjustment: HyperET, site: str, strength: float
) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of `layer`, each with its value behind which a linear `adjustment` is superfluous.

    `strength` is as for the adjustment itself.
    """
    if adjustment.geometry not in ("euclidean", "mobius"):
        raise ConfigError(
            f"site {site} does not fold into the base weights: geometry {adjustment.geometry} is not a linear map "
            "of features; euclidean is, and mobius below its norm cap"
        )
    difference, weight = _exact(adjustment.matrix.difference()), _exact(layer.weight)
    if adjustment.alpha is not None:
        difference = _exact(adjustment.alpha) * difference
    matrix = torch.eye(len(difference)).to(difference) + strength * difference
    groups = getattr(layer, "groups", 1)
    group = torch.arange(len(matrix)) * groups // len(matrix)
    if matrix[group[:, None] != group].any():
        raise ConfigError(
            f"site {site} does not fold into the base weights: its matrix mixes channels of different groups of a "
            f"convolution, groups={groups}; a diagonal one does not"
        )
    pairs = [(layer.weight, torch.tensordot(matrix, weight, 1))]
    return pairs if layer.bias is None else [*pairs, (layer.bias, matrix @ _exact(layer.bias))]


def _exact(tensor: Tensor) -> Tensor:
    """A copy in float64 on the CPU: not every device has it."""
    return tensor.detach().cpu().double()


def adjustments(config: HyperETConfig, count: int, dim: int, channel_dim: int, like: nn.Module) -> list[HyperET]:
    """`count` new adjustments of `dim` channels, on the device of `like`."""
    shared = inspect.signature(HyperET).parameters
    options, device = {k: v for k, v in vars(config).items() if k in shared}, next(like.parameters()).device
    try:
        return [HyperET(dim, channel_dim=channel_dim, **options).to(device) for _ in range(count)]
    except ValueError as error:
        raise ConfigError(f"hyperet: {error}") from error


def chosen(option: str, indices: Sequence[int] | None, present: int, what: str) -> tuple[int, ...]:
    """The chosen ones of `present` levels, layers or blocks, all of which must be there; None chooses all."""
    if indices is None:
        return tuple(range(present))
    if absent := [index for index in indices if not 0 <= index < present]:
        found = f"{option}={list(indices)}: the model has no {what} {absent[0]}"
        raise ConfigError(f"{found}; expected from 0 to {present - 1}")
    return tuple(indices)


def extended(module: nn.Module, cls: type[_Module], parent: type[nn.Module]) -> _Module:
    """`module`, of class `parent`, as `cls`, its subclass; `module` itself where it already is one."""
    return module if isinstance(module, cls) else converted(stock(module, parent), cls)


def stock(module: nn.Module, cls: type[_Module]) -> _Module:
    """`module`, which must be of class `cls` itself: a replacement would drop another one's behaviour."""
    if type(module) is not cls:
        raise ConfigError(f"hyperet: found a {type(module).__name__} in the model; expected SAM 3's {cls.__name__}")
    if "forward" in vars(module):
        raise ConfigError(f"hyperet: the model's {cls.__name__} is compiled; inject first, then compile")
    assert isinstance(module, cls)
    return module
