"""Which parameters train: adapters only, named layers as well, or everything."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.training.options import KEY_LAYERS, STAGES


@dataclass(frozen=True)
class StageReport:
    """What a stage trains: counts of parameters, and of the tensors that each pattern matched."""

    stage: int
    trainable: int
    frozen: int
    matched: dict[str, int]

    def __str__(self) -> str:
        patterns = "".join(f"; {pattern} matched {count}" for pattern, count in self.matched.items())
        return f"stage {self.stage}: {self.trainable:,} parameters train, {self.frozen:,} are frozen{patterns}"


def set_stage(model: nn.Module, stage: int, layers: Sequence[str] = KEY_LAYERS) -> StageReport:
    """Set `requires_grad` of every parameter.

    Args:
        stage: 1 adapters only; 2 adapters and the layers that `layers` name; 3 everything.
        layers: regular expressions, matched from the start of a parameter's name; read in stage 2 alone.

    Raises:
        ConfigError: an unknown stage, nothing to train, or a pattern that matches nothing.
    """
    if stage not in STAGES:
        raise ConfigError(f"stage={stage!r} is unknown; expected 1, 2 or 3")
    added = {name for name, _ in adapter_parameters(model)}
    if stage == 1 and not added:
        raise ConfigError("stage 1 trains the adapters, and the model has none; choose a scheme or another stage")
    patterns = dict.fromkeys(layers if stage == 2 else (), 0)
    for name, parameter in model.named_parameters():
        hits = [pattern for pattern in patterns if re.match(pattern, name)]
        for pattern in hits:
            patterns[pattern] += 1
        parameter.requires_grad_(stage == 3 or name in added or bool(hits))
    unmatched = [pattern for pattern, count in patterns.items() if not count]
    if unmatched:
        raise ConfigError(f"stage 2: no parameter's name matches {', '.join(unmatched)}")
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return StageReport(stage, trainable, sum(p.numel() for p in model.parameters()) - trainable, patterns)


def set_training_mode(model: nn.Module, *, checkpoint_activations: bool = False) -> None:
    """Put what trains into training mode and what is frozen into evaluation mode (no dropout, no drop path).

    A module trains when all of its parameters do. The root is always in training mode: this is how SAM 3 is asked for
    the outputs that its losses need.

    Args:
        checkpoint_activations: recompute the fusion encoder, decoder and mask head in the backward pass: less memory,
            more time.
    """
    _set_mode(model)
    model.training = True
    # These three flags steer nothing but activation checkpointing.
    model.transformer.encoder.training = checkpoint_activations
    model.transformer.decoder.training = checkpoint_activations
    model.use_act_checkpoint_seg_head = checkpoint_activations


def _set_mode(module: nn.Module) -> None:
    trains = [p.requires_grad for p in module.parameters()]
    module.train(bool(trains) and all(trains))
    if any(trains) and not all(trains):
        for child in module.children():
            _set_mode(child)
