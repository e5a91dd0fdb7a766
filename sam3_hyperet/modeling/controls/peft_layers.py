"""LoRA, DoRA and (IA)³ as controls, by peft, in the layers that feed HyperET's sites.

lora  W = W_0 + B A of rank r, with B = 0 at first [Hu et al. 2022]; the scale α/r is 1. A convolution's A is a
      convolution of the same kernel to r channels, its B one of kernel 1.
dora  W = m (W_0 + B A) / ‖W_0 + B A‖, norms by output, with m the norms of W_0 at first [Liu et al. 2024, DoRA].
ia3   y = l ⊙ (W_0 x + b), with l = 1 at first [Liu et al. 2022, § 3.3]: here the outputs, which reach the sites.
"""

import copy
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.module import SwitchedAdapter, interpolated
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import CONTROLS_BY_PEFT, HyperETConfig
from sam3_hyperet.modeling.controls.matching import LayerShape, layer_shape, matched_size

_BASE = "base_layer"  # peft's name for the layer that it wraps


def check_peft(adapter: str) -> None:
    """Raise a ConfigError where an adapter is one of peft's, which is not installed; nothing is imported."""
    if adapter in CONTROLS_BY_PEFT and importlib.util.find_spec("peft") is None:
        raise ConfigError(f'adapter={adapter} needs peft: pip install "sam3_hyperet[peft]"')


class PeftLayers(SwitchedAdapter):
    """Layers of peft in the places of the base's layers `names`."""

    def __init__(self, model: nn.Module, adapter: str, names: list[str]) -> None:
        super().__init__(adapter)
        self.names = names
        self._layers: list[Any] = [model.get_submodule(name) for name in names]  # a list: they are the model's children
        for layer in self._layers:
            layer.register_forward_hook(self._dialled)

    def _switch(self) -> None:
        for layer in self._layers:
            with _kept_requires_grad(layer):
                layer.enable_adapters(self._enabled and self._dial != 0.0)

    def _dialled(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """y = base(x) + dial (adapted(x) - base(x)), of the dtype of the base's output."""
        device = output.device.type
        if torch.is_autocast_enabled(device):
            output = output.to(torch.get_autocast_dtype(device))  # (IA)³ of a convolution leaves it in fp32
        if self._dial == 1.0 or layer.disable_adapters:
            return output
        base: Tensor = layer.get_base_layer()(*inputs)
        return interpolated(base.float(), output.float(), self._dial).to(base.dtype)

    def adapter_parameters(self, prefix: str) -> list[tuple[str, nn.Parameter]]:
        """Every parameter that peft added, by its name in the model."""
        layers = zip(self.names, self._layers, strict=True)
        every = [(name, *pair) for name, layer in layers for pair in layer.named_parameters(name)]
        return [(key, parameter) for name, key, parameter in every if not key.startswith(f"{name}.{_BASE}.")]

    def base_tensors(self, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {f"{layer}.{_BASE}.{key}": f"{layer}.{key}" for layer in self.names for key in ("weight", "bias")}
        return {own.get(name, name): tensor for name, tensor in others.items()}

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        """The base's weights and biases, each with what peft makes of it."""
        pairs = []
        for layer in self._layers:
            merged = copy.deepcopy(layer, {id(self): self})
            merged.merge()
            new = dict(merged.get_base_layer().named_parameters())
            for name, old in layer.get_base_layer().named_parameters():
                pairs.append((old, interpolated(old, new[name], self._dial)))
        return pairs

    def remove(self, model: nn.Module) -> None:
        """Put the base's layers back where they were."""
        for name, layer in zip(self.names, self._layers, strict=True):
            model.set_submodule(name, layer.get_base_layer())


def install_peft_layers(
    model: host.Sam3Image, config: HyperETConfig, names: list[str], budget: Callable[[], int]
) -> None:
    """Wrap the layers `names` in peft's, of `config.rank` or of at most `budget()` parameters; (IA)³ has no size."""
    shapes = {name: layer_shape(model, name, config.adapter) for name in names}
    if names:
        has_rank = config.adapter != "ia3"
        rank, largest = config.rank if has_rank else None, max(min(shape) for shape in shapes.values())
        if rank is not None and rank > largest:
            raise ConfigError(f"rank={rank}; expected at most {largest}, the full rank of the largest layer")
        if has_rank and rank is None:
            rank, names = matched_size(config.adapter, "rank", _costs(shapes, config.adapter, total := budget()), total)
        _wrap(model, names, config.adapter, rank)
    model.hyperet_control = PeftLayers(model, config.adapter, names).train(model.training)


def _costs(shapes: Mapping[str, LayerShape], adapter: str, budget: int) -> Iterator[tuple[int, dict[str, int]]]:
    """Ranks from the largest down, each with its parameters by layer."""
    for rank in range(max(1, budget // sum(map(sum, shapes.values()))), 0, -1):
        magnitudes = adapter == "dora"
        yield rank, {name: rank * sum(shape) + magnitudes * shape.outputs for name, shape in shapes.items()}


def _wrap(model: host.Sam3Image, names: list[str], adapter: str, rank: int | None) -> None:
    try:
        import peft  # takes seconds to import, and is optional
    except ImportError as error:
        raise ConfigError(f'adapter={adapter} needs peft ({error}): pip install "sam3_hyperet[peft]"') from error
    target = "|".join(map(re.escape, names))
    config: peft.PeftConfig = peft.IA3Config(target_modules=target, feedforward_modules=[])
    if rank is not None:
        use_dora = adapter == "dora"
        config = peft.LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, use_dora=use_dora, target_modules=target)
    try:
        with _kept_requires_grad(model):
            peft.inject_adapter_in_model(config, model)
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
