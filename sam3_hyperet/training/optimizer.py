"""AdamW with linear warm-up and cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from sam3_hyperet.errors import ConfigError


@dataclass(frozen=True)
class OptimizerOptions:
    """Options of AdamW and of its learning rate's course, in optimizer steps."""

    lr: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    warmup_steps: int = 20
    final_lr_ratio: float = 0.02


def build_optimizer(
    parameters: Iterable[nn.Parameter], options: OptimizerOptions, max_steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LambdaLR]:
    """Optimizer and schedule for the parameters that train."""
    if not 0 <= options.warmup_steps <= max_steps:
        raise ConfigError(f"optim.warmup_steps={options.warmup_steps}; expected from 0 to train.max_steps={max_steps}")
    trained = [p for p in parameters if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay)

    def ratio(step: int) -> float:
        if step < options.warmup_steps:
            return (step + 1) / options.warmup_steps
        progress = (step - options.warmup_steps) / max(1, max_steps - options.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        return options.final_lr_ratio + (1 - options.final_lr_ratio) * cosine

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, ratio)
