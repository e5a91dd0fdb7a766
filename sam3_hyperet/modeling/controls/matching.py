"""The size of a control that comes closest to HyperET's number of parameters."""

import logging
import math
from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from sam3_hyperet.errors import ConfigError

logger = logging.getLogger(__name__)


class LayerShape(NamedTuple):
    """Lengths of the rows and of the columns of a layer's weight, a convolution's flattened to a matrix."""

    inputs: int
    outputs: int


def layer_shape(model: nn.Module, name: str, adapter: str) -> LayerShape:
    """Shape of a linear or convolutional layer; any other class of layer is an error."""
    layer = model.get_submodule(name)
    if type(layer) not in (nn.Linear, nn.Conv2d):
        raise ConfigError(f"adapter={adapter}: {name} is a {type(layer).__name__}; expected an nn.Linear or nn.Conv2d")
    outputs, *inputs = layer.get_parameter("weight").shape
    return LayerShape(math.prod(inputs), outputs)


def matched_size(
    adapter: str, option: str, costs: Iterable[tuple[int, dict[str, int]]], budget: int
) -> tuple[int, list[str]]:
    """The largest size, and its layers, of at most `budget` parameters.

    `costs` are sizes from the largest to the smallest, each with its parameters by layer. Where not even the smallest
    goes into all layers, it goes into as many as it fits into, from the last on. Raises ConfigError where that is none.
    """
    size, by_layer = 0, dict[str, int]()
    for size, by_layer in costs:  # noqa: B007 - the last one is read below
        if sum(by_layer.values()) <= budget:
            break
    names, left = [], budget
    for name, cost in reversed(list(by_layer.items())):
        if cost <= left:
            names.append(name)
            left -= cost
    if not names:
        name = min(by_layer, key=by_layer.__getitem__)
        raise ConfigError(
            f"adapter={adapter}: HyperET would add {budget:,} parameters, but {option}={size} takes "
            f"{by_layer[name]:,} in {name} alone; to have it all the same, {sum(by_layer.values()):,} parameters, set "
            f"hyperet.{option}={size}"
        )
    logger.info(
        "adapter=%s: %s=%d in %d of %d layers, %s parameters; HyperET would have %s",
        *(adapter, option, size, len(names), len(by_layer), f"{budget - left:,}", f"{budget:,}"),
    )
    return size, names[::-1]
