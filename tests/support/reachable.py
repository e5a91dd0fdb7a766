"""What a module holds on to, whatever keeps it."""

from __future__ import annotations

import torch
from torch import nn


def tensors_of(value, seen=None):
    """Every tensor that can be reached from a module, each once."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from tensors_of(vars(value), seen)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item, seen)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from tensors_of(item, seen)
