"""Inputs of frozen attentions in the order in memory that their projections need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sam3_hyperet import sam3_host as host


def sequence_first(model: nn.Module) -> Iterator[RemovableHandle]:
    """Let PyTorch's attentions get their inputs sequence first in memory, as they project them.

    In another order a projection by a frozen weight is not one product of matrices but one a position, each of as many
    rows as there are prompts: several times slower. By a weight that trains PyTorch makes the copy itself.
    """
    for module in model.modules():
        if type(module) in (nn.MultiheadAttention, host.MultiheadAttention):
            yield module.register_forward_pre_hook(_reorder, with_kwargs=True)


def _reorder(attention: nn.MultiheadAttention, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    copies: dict[int, Tensor] = {}  # what is one tensor, such as keys and values, stays one

    def ordered(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim != 3:
            return x
        if id(x) not in copies:
            first = x.transpose(0, 1) if attention.batch_first else x
            first = first.contiguous()
            copies[id(x)] = first.transpose(0, 1) if attention.batch_first else first
        return copies[id(x)]

    if not torch.is_grad_enabled() or attention.in_proj_weight is None or attention.in_proj_weight.requires_grad:
        return None
    named = {name: ordered(x) if name in ("query", "key", "value") else x for name, x in options.items()}
    return (*map(ordered, inputs[:3]), *inputs[3:]), named
