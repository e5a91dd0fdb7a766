"""The interface of everything that `inject` adds to a model."""

from collections.abc import Mapping

from torch import Tensor, nn

from sam3_hyperet.errors import ConfigError


class AdapterModule(nn.Module):
    """The adapter of one site: named in metrics, switched on and off as one, removed or folded into the base.

    While `enabled` is false, or `dial`, α, is 0, the model's outputs are the base's, bit for bit. In between, what the
    adapter f makes of x is x + α(f(x) − x); at α = 1 it is f(x) without further arithmetic. `obstacle` is why it does
    not fold.
    """

    obstacle = "its place is not that of a linear layer"
    enabled: bool = True
    dial: float = 1.0

    def __init__(self, name: str, obstacle: str = obstacle) -> None:
        super().__init__()
        self.name, self.obstacle = name, obstacle

    def site_name(self, child: str) -> str:
        """Name in metrics of the adjustment that is this module's descendant `child`."""
        return self.name

    def adapter_parameters(self, prefix: str) -> list[tuple[str, nn.Parameter]]:
        """Added parameters by their names in the model, in which this module is `prefix`."""
        return list(self.named_parameters(prefix))

    def base_tensors(self, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Base parameters under their base names; `others` are the model's without this adapter's."""
        return dict(others)

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """Base tensors, each with the value that makes this adapter superfluous. Raises ConfigError for `obstacle`."""
        raise ConfigError(f"site {self.name.partition('.')[0]} does not fold into the base weights: {self.obstacle}")

    def remove(self, model: nn.Module) -> None:
        """Undo what `reverted` does not: changes of `model` other than of the class of a module."""


class SwitchedAdapter(AdapterModule):
    """An adapter whose switch and dial act when they are set: `_switch` puts what they say in place."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._enabled, self._dial = True, 1.0

    @property
    def enabled(self) -> bool:
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        if enabled != self._enabled:
            self._enabled = enabled
            self._switch()

    @property
    def dial(self) -> float:
        return self._dial

    @dial.setter
    def dial(self, dial: float) -> None:
        if dial != self._dial:
            self._dial = dial
            self._switch()

    def _switch(self) -> None:
        raise NotImplementedError


def interpolated(x: Tensor, y: Tensor, strength: Tensor | float) -> Tensor:
    """x + `strength`·(y − x); y itself at the number 1."""
    if not isinstance(strength, Tensor) and strength == 1.0:
        return y
    return x + strength * (y - x)
