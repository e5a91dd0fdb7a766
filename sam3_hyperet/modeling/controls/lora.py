"""LoRA as a control, by peft: low-rank updates of the layers that feed HyperET's sites, at its number of parameters.

W = W_0 + B A of rank r, with B = 0 at first [Hu et al. 2022, eq. 3]; the scale α/r is 1. A convolution's A is a
convolution of the same kernel to r channels, its B one of kernel 1.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.module import AdapterModule
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites.table import SITES

_BASE = "base_layer"  # peft's name for the layer that it wraps


class LowRankUpdates(AdapterModule):
    """LoRA layers of peft in the places of the base's layers `names`."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__("lora")
        self.names = names
        self._layers: list[Any] = [model.get_submodule(name) for name in names]  # a list: they are the model's children
        self._enabled = True

    @property
    def enabled(self) -> bool:
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        for layer in self._layers:
            with _kept_requires_grad(layer):
                layer.enable_adapters(enabled)
        self._enabled = enabled

    def adapter_parameters(self, prefix: str) -> list[tuple[str, nn.Parameter]]:
        """Every A and B by its name in the model."""
        layers = zip(self.names, self._layers, strict=True)
        every = [(name, *pair) for name, layer in layers for pair in layer.named_parameters(name)]
        return [(key, parameter) for name, key, parameter in every if not key.startswith(f"{name}.{_BASE}.")]

    def base_tensors(self, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {f"{layer}.{_BASE}.{key}": f"{layer}.{key}" for layer in self.names for key in ("weight", "bias")}
        return {own.get(name, name): tensor for name, tensor in others.items()}

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """The base's weights, each with B A added."""
        weights = [layer.get_base_layer().weight for layer in self._layers]
        updates = [layer.get_delta_weight(name) for layer in self._layers for name in layer.lora_A]
        return [(weight, weight + update) for weight, update in zip(weights, updates, strict=True)]

    def remove(self, model: nn.Module) -> None:
        """Put the base's layers back where they were."""
        for name, layer in zip(self.names, self._layers, strict=True):
            model.set_submodule(name, layer.get_base_layer())


def install_lora(model: host.Sam3Image, config: HyperETConfig, budget: int | None) -> None:
    """Add LoRA to the layers that feed the sites of `config`, of `config.rank` or of at most `budget` parameters."""
    feeding = {name for site in config.resolved_sites for name in SITES[site].feeding(model, config)}
    names = [name for name, _ in model.named_modules() if name in feeding]
    sizes = {name: _size_per_rank(model, name) for name in names}
    if names:
        largest = max(_full_rank(model, name) for name in names)
        if (config.rank or 0) > largest:
            raise ConfigError(f"rank={config.rank}; expected at most {largest}, the full rank of the largest layer")
        rank, names = matched_rank(sizes, budget or 0) if config.rank is None else (config.rank, names)
        _wrap(model, names, rank)
    model.hyperet_control = LowRankUpdates(model, names).train(model.training)


def matched_rank(sizes: Mapping[str, int], budget: int) -> tuple[int, list[str]]:
    """The rank, and its layers, that come closest to `budget` parameters from below.

    `sizes` are the parameters that rank 1 takes, by layer. Where not all of them fit, rank 1 goes to as many as do,
    from the last on. Raises ConfigError where none fits.
    """
    if rank := budget // sum(sizes.values()):
        return rank, list(sizes)
    names, left = [], budget
    for name, size in reversed(list(sizes.items())):
        if size <= left:
            names.append(name)
            left -= size
    if not names:
        name = min(sizes, key=sizes.__getitem__)
        raise ConfigError(
            f"adapter=lora: HyperET would add {budget:,} parameters, but LoRA of rank 1 takes {sizes[name]:,} in "
            f"{name} alone; for rank 1 all the same, {sum(sizes.values()):,} parameters, set hyperet.rank=1"
        )
    return 1, names[::-1]


def _wrap(model: host.Sam3Image, names: list[str], rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import, and is optional
    except ImportError as error:
        raise ConfigError(f'adapter=lora needs peft ({error}): pip install "sam3_hyperet[peft]"') from error
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules="|".join(map(re.escape, names)))
    try:
        with _kept_requires_grad(model):
            inject_adapter_in_model(config, model)
    finally:
        vars(model).pop("peft_config", None)
    for name in names:
        layer = model.get_submodule(name)
        layer.train(layer.get_submodule(_BASE).training)


@contextmanager
def _kept_requires_grad(module: nn.Module) -> Iterator[None]:
    """Context for peft, which changes along what requires a gradient."""
    before = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        for parameter, trains in before:
            parameter.requires_grad_(trains)


def _full_rank(model: nn.Module, name: str) -> int:
    weight = model.get_submodule(name).get_parameter("weight")
    return min(weight.shape[0], weight[0].numel())


def _size_per_rank(model: nn.Module, name: str) -> int:
    layer = model.get_submodule(name)
    if type(layer) not in (nn.Linear, nn.Conv2d):
        raise ConfigError(f"adapter=lora: {name} is a {type(layer).__name__}; expected an nn.Linear or nn.Conv2d")
    weight = layer.get_parameter("weight")
    return weight[0].numel() + weight.shape[0]
