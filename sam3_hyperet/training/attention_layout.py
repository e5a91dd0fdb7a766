"""Inputs of frozen attentions in the order in memory that their projections need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sam3_hyperet import sam3_host as host

_ATTENDED = ("query", "key", "value")


def sequence_first(model: nn.Module) -> Iterator[RemovableHandle]:
    """Let PyTorch's attentions get their inputs sequence first in memory, as they project them.

    In another order a projection by a frozen weight is not one product of matrices but one a position, each of as many
    rows as there are prompts: several times slower. By a weight that trains PyTorch makes the copy itself.
    """
    for module in model.modules():
        if type(module) in (nn.MultiheadAttention, host.MultiheadAttention):
            yield module.register_forward_pre_hook(_reorder, with_kwargs=True)


def _reorder(attention: nn.MultiheadAttention, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    if not torch.is_grad_enabled() or attention.in_proj_weight is None or attention.in_proj_weight.requires_grad:
        return None

    def ordered(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim != 3:
            return x
        first = (x.transpose(0, 1) if attention.batch_first else x).contiguous()
        return first.transpose(0, 1) if attention.batch_first else first

    given = dict(zip(_ATTENDED, inputs, strict=False)) | {k: v for k, v in options.items() if k in _ATTENDED}
    query, key, value = (given[name] for name in _ATTENDED)
    given["query"] = ordered(query)  # what is one tensor stays one; `is`, since the compiler knows no `id`
    given["key"] = given["query"] if key is query else ordered(key)
    given["value"] = given["key"] if value is key else given["query"] if value is query else ordered(value)
    positional = tuple(given[name] for name in _ATTENDED[: len(inputs)])
    return (*positional, *inputs[3:]), {**options, **{name: given[name] for name in _ATTENDED if name in options}}
