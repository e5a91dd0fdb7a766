"""SAM 3's own builders on a machine without CUDA: their hard-coded "cuda" is sent elsewhere."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sam3_hyperet import sam3_host as host

SMALLEST = 336  # pixels: the smallest resolution of the official architecture; no weight's shape depends on it
_RANDOM = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_)
_SCALING = (torch.Tensor.mul_, torch.Tensor.add_, torch.Tensor.clamp_)  # of what was drawn


class CudaElsewhere(TorchFunctionMode):
    """Within it a factory asked for "cuda" makes a tensor of `device`, and memory is not pinned.

    Args:
        draw: False leaves the memory of random initial weights as it is, which is fast.
    """

    def __init__(self, device: str, draw: bool = True) -> None:
        super().__init__()
        self.device = device
        self.draw = draw

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        draws = func in _RANDOM or (func in _SCALING and isinstance(args[0], nn.Parameter))
        if func is torch.Tensor.pin_memory or (draws and not self.draw):
            return args[0]
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = self.device
        elif func is torch.linspace and self.device == "meta":
            kwargs["device"] = "cpu"  # its values are read
        return func(*args, **kwargs)


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Within it modules are built without memory for their weights."""
    with torch.device("meta"), CudaElsewhere("meta"):
        yield


def image_model(**options: Any) -> nn.Module:
    """What `build_sam3_image_model` builds, in training mode, without a checkpoint unless one is named."""
    from sam3.model_builder import build_sam3_image_model

    defaults = {"bpe_path": host.vocabulary_path(), "device": "cpu", "eval_mode": False, "load_from_HF": False}
    return build_sam3_image_model(**{**defaults, **options})


def video_model() -> nn.Module:
    """What `build_sam3_video_model` builds, on meta: its state dict has the keys of the official file."""
    from sam3.model_builder import build_sam3_video_model

    with warnings.catch_warnings(), on_meta():
        warnings.simplefilter("ignore")
        model = build_sam3_video_model(bpe_path=host.vocabulary_path(), device="meta", load_from_HF=False)
    model.tracker.bf16_context.__exit__(None, None, None)  # it enters autocast for the whole process
    return model


def draw_weights(model: nn.Module, *, shared: bool = False) -> None:
    """Random weights, also of norms and biases, out of one pool: drawing all of 840 million takes long.

    shared: let the weights be parts of one tensor of .2 GB in place of 3.4 GB, in memory and in a file of PyTorch's;
        they must not be changed then.
    """
    pool = 0.02 * torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    largest = max(parameter.numel() for parameter in model.parameters())
    whole = pool.repeat(2 + largest // len(pool))
    with torch.no_grad():
        for number, (name, parameter) in enumerate(model.named_parameters()):
            start = 7919 * number % len(pool)
            draws = whole[start : start + parameter.numel()].view_as(parameter)
            if parameter.ndim == 1 and name.endswith("weight"):  # of a norm
                parameter.copy_(draws + 1)
            elif shared:
                parameter.data = draws
            else:
                parameter.copy_(draws)
