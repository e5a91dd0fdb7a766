"""Models without weights: the names and shapes of their parameters, made in a second and next to no memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.modeling.inject import inject


def outline(model: ModelOptions, hyperet: HyperETConfig) -> host.Sam3Image:
    """The adapted model with the names and shapes of its parameters, of which nearly none have memory."""
    with _WithoutWeights():
        built = build_model(model.name, checkpoint="random", resolution=model.resolution)
        return built if hyperet.is_empty else inject(built, hyperet)


class _WithoutWeights(TorchFunctionMode):
    """Tensors that `torch.empty` makes, as nearly all parameters are made, have a shape and no memory."""

    def __torch_function__(
        self, function: Callable[..., Any], types: object, args: Any = (), kwargs: Any = None
    ) -> Any:
        elsewhere = {"device": "meta"} if function is torch.empty else {}
        return function(*args, **{**(kwargs or {}), **elsewhere})
