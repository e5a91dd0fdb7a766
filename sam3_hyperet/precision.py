"""Numeric precision of training and inference, by the names that `train.precision` and `protocol.precision` have.

- `32-true`: fp32 throughout, without TF32.
- `tf32`: fp32 whose matrix products and convolutions round their inputs to TF32, on CUDA from compute capability 8.0.
- `bf16-mixed`: autocast to bfloat16; weights, losses, scores, boxes and enlarged masks stay in fp32.
- `auto`: bf16-mixed on a CUDA device that computes in bfloat16, else 32-true.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from sam3_hyperet.choices import AUTO, BF16, FP32, TF32
from sam3_hyperet.errors import ConfigError


def resolved_precision(name: str, device: str, option: str = "precision") -> str:
    """The precision in which a type of device computes: never `auto`, and `tf32` only where there is TF32.

    Raises ConfigError, which names the `option`, for bfloat16 on a CUDA device that can only emulate it.
    """
    native = device == "cuda" and _has_bf16()
    if name == AUTO:
        return BF16 if native else FP32
    if name == BF16 and device == "cuda" and not native:
        card = torch.cuda.get_device_name()
        raise ConfigError(f"{option}={name}, but {card} does not compute in bfloat16; expected {AUTO} or {FP32}")
    return FP32 if name == TF32 and not native else name  # the same cards have both


def precision_text(name: str, resolved: str, device: str) -> str:
    """What a run says of its precision, and why it is another one than was asked for."""
    if name == resolved:
        return f"precision: {resolved} on {device}"
    missing = "" if torch.cuda.is_available() else "; PyTorch finds no CUDA device"
    return f"precision: {resolved} on {device} ({name}{missing})"


def device_of(accelerator: str) -> str:
    """The type of device that Fabric takes for an accelerator, as far as precision depends on it."""
    return "cuda" if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available() else "cpu"


def fabric_precision(precision: str) -> str:
    """The name that Fabric has for a resolved precision; TF32 is for `float32_products`."""
    return FP32 if precision == TF32 else precision


def autocast(precision: str, device: str) -> torch.autocast:
    """Context of a forward pass in a resolved precision; TF32 is for `float32_products`."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == BF16)


@contextlib.contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Within it, products of fp32 tensors use TF32 for `tf32` and no other precision.

    The setting is the whole process's: enter it around a run, not in each of several threads.
    """
    before = tf32_settings()
    for owner, name, value in before:
        on = precision == TF32
        setattr(owner, name, on if isinstance(value, bool) else "tf32" if on else "ieee")
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def tf32_settings() -> list[tuple[Any, str, object]]:
    """Every (owner, attribute, value) that restores whether this process uses TF32."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    try:
        return [(owner, "allow_tf32", owner.allow_tf32) for owner in (matmul, cudnn)]
    except RuntimeError:  # set by PyTorch's newer interface, after which the older one cannot be read
        return [(owner, "fp32_precision", owner.fp32_precision) for owner in (matmul, cudnn.conv, cudnn.rnn)]


def _has_bf16() -> bool:
    """Whether the card computes in bfloat16, and so in TF32; where there is none, it is a forecast's and does."""
    return not torch.cuda.is_available() or bool(torch.cuda.is_bf16_supported(including_emulation=False))
