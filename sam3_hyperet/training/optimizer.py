"""AdamW with a learning rate for each group of parameters: linear warm-up, then a cosine."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.training.distributed import gathered
from sam3_hyperet.training.options import OptimizerOptions

ADAPTERS, KEY_LAYERS, REST, TRUNK = "adapters", "key_layers", "rest", "trunk"
_TRUNK_PREFIX = "backbone.vision_backbone.trunk."


def build_optimizer(
    model: nn.Module,
    options: OptimizerOptions,
    *,
    key_layers: Sequence[str] = (),
    starts: Mapping[str, int] | None = None,
    previous: torch.optim.Optimizer | None = None,
) -> torch.optim.AdamW:
    """An optimizer of the parameters that train, in groups "adapters", "key_layers", "rest" and "trunk.<depth>".

    Args:
        key_layers: the regular expressions of stage 2.
        starts: step at which a group began to train, by the group's name before a dot; 0 where it is not there.
        previous: its state is kept for parameters that go on.

    Raises ConfigError for what AdamW refuses.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter, ratio in _by_group(model, options, key_layers):
        start = (starts or {}).get(name.partition(".")[0], 0)
        new = {"params": [], "name": name, "start": start, "lr": 0.0, "peak_lr": ratio * options.lr}
        groups.setdefault(name, new)["params"].append(parameter)
    try:
        optimizer = torch.optim.AdamW(list(groups.values()), betas=options.betas, weight_decay=options.weight_decay)
    except ValueError as error:
        raise ConfigError(f"optim: {error}") from error
    if previous is not None:
        trained = {p for group in optimizer.param_groups for p in group["params"]}
        optimizer.state.update({p: state for p, state in previous.state.items() if p in trained})
    return optimizer


def set_learning_rates(
    optimizer: torch.optim.Optimizer, options: OptimizerOptions, step: int, max_steps: int
) -> dict[str, float]:
    """Set every group's rate for the step after `step` steps, and return them by group.

    Linear warm-up from the group's start, then a cosine that all groups share.
    """
    progress = max(0, step - options.warmup_steps) / max(1, max_steps - options.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    decayed = options.final_lr_ratio + (1 - options.final_lr_ratio) * cosine
    for group in optimizer.param_groups:
        warm = (step - group["start"] + 1) / options.warmup_steps if options.warmup_steps else 1.0
        group["lr"] = group["peak_lr"] * decayed * min(1.0, warm)
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def gradient_norms(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Norm of the present gradients of each group."""
    return {
        group["name"]: float(gathered(get_total_norm([p.grad for p in group["params"] if p.grad is not None])))
        for group in optimizer.param_groups
    }


def _by_group(
    model: nn.Module, options: OptimizerOptions, key_layers: Sequence[str]
) -> Iterator[tuple[str, nn.Parameter, float]]:
    """Group, parameter and fraction of `lr` of everything that trains."""
    added = {name for name, _ in adapter_parameters(model)}
    blocks = 1 + max((_block(name) for name, _ in model.named_parameters()), default=-1)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name in added:
            yield ADAPTERS, parameter, 1.0
        elif any(re.match(pattern, name) for pattern in key_layers):
            yield KEY_LAYERS, parameter, options.base_lr_ratio
        elif name.startswith(_TRUNK_PREFIX) and options.trunk_decay < 1:
            below = blocks - 1 - _block(name)  # what is in no block lies below the first
            yield f"{TRUNK}.{below}", parameter, options.base_lr_ratio * options.trunk_decay**below
        else:
            yield REST, parameter, options.base_lr_ratio


def _block(name: str) -> int:
    """Index of the trunk's block that a parameter belongs to; -1 if it belongs to none."""
    match = re.match(re.escape(_TRUNK_PREFIX) + r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else -1
