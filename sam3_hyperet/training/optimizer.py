"""AdamW with a learning rate and a decay for each group of parameters: linear warm-up, then a cosine."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.hyperbolic.curvature import Curvature
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.modeling.wrappings import named_modules, named_parameters
from sam3_hyperet.training.distributed import gathered
from sam3_hyperet.training.options import OptimizerOptions

ADAPTERS, KEY_LAYERS, REST, TRUNK, VISION, TEXT = "adapters", "key_layers", "rest", "trunk", "vision", "text"
_VISION_PREFIX, _TEXT_PREFIX = "backbone.vision_backbone.", "backbone.language_backbone."
_TRUNK_PREFIX = f"{_VISION_PREFIX}trunk."
_WITHOUT_DECAY = (Curvature, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_BIASES = ("bias", "translation")  # the second is the bias of a gyro adjustment, a point of its ball
_MAGNITUDES = (".ia3_l.", ".lora_magnitude_vector.")  # of (IA)³ and DoRA: they begin at 1 and at norms, not at 0


def build_optimizer(
    model: nn.Module,
    options: OptimizerOptions,
    *,
    key_layers: Sequence[str] = (),
    starts: Mapping[str, int] | None = None,
    previous: torch.optim.Optimizer | None = None,
) -> torch.optim.AdamW:
    """An optimizer of the parameters that train, in groups by learning rate and weight decay.

    They are named "adapters", "rest", "text", "vision" and "trunk.<depth>"; the key layers of stage 2 "key_layers", or
    "key_layers.text" and so on where they are of these parts. Where some of a group's parameters never decay, two
    groups have its name.

    Args:
        key_layers: the regular expressions of stage 2.
        starts: step at which a group began to train, by the group's name before a dot; 0 where it is not there.
        previous: its state is kept for parameters that go on.

    Raises ConfigError for what AdamW refuses.
    """
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for name, parameter, peak, decay in _by_group(model, options, key_layers):
        start = (starts or {}).get(name.partition(".")[0], 0)
        new = {"params": [], "name": name, "start": start, "lr": 0.0, "peak_lr": peak, "weight_decay": decay}
        groups.setdefault((name, decay), new)["params"].append(parameter)
    try:
        optimizer = torch.optim.AdamW(list(groups.values()), betas=options.betas)
    except ValueError as error:
        raise ConfigError(f"optim: {error}") from error
    if previous is not None:
        trained = {p for group in optimizer.param_groups for p in group["params"]}
        optimizer.state.update({p: state for p, state in previous.state.items() if p in trained})
    return optimizer


def describe_groups(optimizer: torch.optim.Optimizer) -> tuple[str, ...]:
    """A line for each part of the model that trains: its parameters, its highest rate and its weight decay."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for group in optimizer.param_groups:
        parts.setdefault(re.sub(r"\.\d+$", "", group["name"]), []).append(group)
    lines = []
    for name, groups in parts.items():
        sizes = dict.fromkeys(sorted({group["weight_decay"] for group in groups}, reverse=True), 0)
        for group in groups:
            sizes[group["weight_decay"]] += sum(p.numel() for p in group["params"])
        rates = sorted({group["peak_lr"] for group in groups}, reverse=True)
        rate = f"{rates[0]:.3g}" if len(rates) == 1 else f"{rates[0]:.3g} to {rates[-1]:.3g} at its lowest block"
        decay = ", ".join(f"{value:g}" + (f" on {n:,}" if len(sizes) > 1 else "") for value, n in sizes.items())
        lines.append(f"{name}: {sum(sizes.values()):,} parameters, learning rate {rate}, weight decay {decay}")
    return tuple(lines)


def set_learning_rates(
    optimizer: torch.optim.Optimizer, options: OptimizerOptions, step: int, max_steps: int
) -> dict[str, float]:
    """Set every group's rate for the step after `step` steps, and return them by group.

    Linear warm-up from the group's start, then a cosine that all groups share.
    """
    first = options.warmup_steps(max_steps)
    progress = max(0, step - first) / max(1, max_steps - first)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    decayed = options.final_lr_ratio + (1 - options.final_lr_ratio) * cosine
    for group in optimizer.param_groups:
        warmup = options.warmup_steps(max_steps - group["start"])
        warm = (step - group["start"] + 1) / warmup if warmup else 1.0
        group["lr"] = group["peak_lr"] * decayed * min(1.0, warm)
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def gradient_norms(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Norm of the present gradients of each group, on their device, which is not waited for."""
    gradients: dict[str, list[Tensor]] = {}
    for group in optimizer.param_groups:
        present = [p.grad for p in group["params"] if p.grad is not None]
        gradients.setdefault(group["name"], []).extend(present)
    none = torch.zeros(0, device=optimizer.param_groups[0]["params"][0].device)
    return {name: gathered(get_total_norm(present or [none])) for name, present in gradients.items()}


def _by_group(
    model: nn.Module, options: OptimizerOptions, key_layers: Sequence[str]
) -> Iterator[tuple[str, nn.Parameter, float, float]]:
    """Group, parameter, highest rate and weight decay of everything that trains."""
    added = {name for name, _ in adapter_parameters(model)}
    modules = dict(named_modules(model))
    blocks = 1 + max((_block(name) for name, _ in named_parameters(model)), default=-1)
    for name, parameter in named_parameters(model):
        if not parameter.requires_grad:
            continue
        owner, _, leaf = name.rpartition(".")
        is_exempt = any(bias in leaf for bias in _BIASES) or isinstance(modules[owner], _WITHOUT_DECAY)
        is_exempt = is_exempt or parameter.numel() == 1 or any(part in name for part in _MAGNITUDES)
        if name in added:
            yield ADAPTERS, parameter, options.lr, 0.0 if is_exempt else options.weight_decay
            continue
        part, rate = _part(name, options, blocks)
        if any(re.match(pattern, name) for pattern in key_layers):
            part = KEY_LAYERS if part == REST else f"{KEY_LAYERS}.{part}"
        yield part, parameter, rate, 0.0 if is_exempt else options.base_weight_decay


def _part(name: str, options: OptimizerOptions, blocks: int) -> tuple[str, float]:
    """Group and highest rate of a parameter of the base, by SAM 3's recipe; the trunk has so many `blocks`."""
    if name.startswith(_TEXT_PREFIX):
        return TEXT, options.text_lr
    if name.startswith(_TRUNK_PREFIX):
        block = _block(name)
        # of what is in no block, the recipe excepts the positions, and takes the end's norm for above the last
        is_above = block < 0 and not any(part in name for part in ("patch_embed", "ln_pre"))
        depth = 0 if is_above else blocks - block
        return f"{TRUNK}.{depth}", options.vision_lr * options.trunk_decay**depth
    return (VISION, options.vision_lr) if name.startswith(_VISION_PREFIX) else (REST, options.base_lr)


def _block(name: str) -> int:
    """Index of the trunk's block that a parameter belongs to; -1 if it belongs to none."""
    match = re.match(re.escape(_TRUNK_PREFIX) + r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else -1
