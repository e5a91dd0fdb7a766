"""Stages of training: which parameters train (adapters, named layers as well, everything), and from when on."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.modeling.modes import set_training_mode
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.modeling.wrappings import named_parameters
from sam3_hyperet.training import optimizer as groups_of
from sam3_hyperet.training.optimizer import build_optimizer, describe_groups, set_learning_rates
from sam3_hyperet.training.options import KEY_LAYERS, STAGES, OptimizerOptions, StageOptions
from sam3_hyperet.training.step import ModelAndLoss

_GROUPS_OF_STAGE = {
    2: (groups_of.KEY_LAYERS,),
    3: (groups_of.REST, groups_of.TRUNK, groups_of.VISION, groups_of.TEXT),
}


@dataclass(frozen=True)
class StageReport:
    """What a stage trains: counts of parameters, and of the tensors that each pattern matched; lines on the groups."""

    stage: int
    trainable: int
    frozen: int
    matched: dict[str, int]
    groups: tuple[str, ...] = ()

    def __str__(self) -> str:
        patterns = "".join(f"; {pattern} matched {count}" for pattern, count in self.matched.items())
        counts = f"stage {self.stage}: {self.trainable:,} parameters train, {self.frozen:,} are frozen{patterns}"
        return "\n  ".join((counts, *self.groups))


def set_stage(model: nn.Module, stage: int, layers: Sequence[str] = KEY_LAYERS) -> StageReport:
    """Set `requires_grad` of every parameter, and keep the text layers' activations for the backward pass.

    Args:
        stage: 1 adapters only; 2 adapters and the layers that `layers` name; 3 everything.
        layers: regular expressions, matched from the start of a parameter's name; read in stage 2 alone.

    Raises ConfigError: an unknown stage, nothing to train, or a pattern that matches nothing.
    """
    if stage not in STAGES:
        raise ConfigError(f"stage={stage!r} is unknown; expected 1, 2 or 3")
    added = {name for name, _ in adapter_parameters(model)}
    if stage == 1 and not added:
        raise ConfigError("stage 1 trains the adapters, and the model has none; choose a scheme or another stage")
    patterns = dict.fromkeys(layers if stage == 2 else (), 0)
    for name, parameter in named_parameters(model):
        hits = [pattern for pattern in patterns if re.match(pattern, name)]
        patterns.update((pattern, patterns[pattern] + 1) for pattern in hits)
        parameter.requires_grad_(stage == 3 or name in added or bool(hits))
    for module in model.modules():
        if isinstance(module, host.VETextEncoder):
            # SAM 3 recomputes its text layers outside its own choice of attention kernels, which fails on CUDA where
            # PyTorch's choice is another; at 32 tokens a prompt there is little to save.
            module.encoder.transformer.grad_checkpointing = False
    if unmatched := [pattern for pattern, count in patterns.items() if not count]:
        raise ConfigError(f"stage 2: no parameter's name matches {', '.join(unmatched)}")
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return StageReport(stage, trainable, sum(p.numel() for p in model.parameters()) - trainable, patterns)


class Stages:
    """The stages of a run: what trains now, its optimizer, and when the next stage begins.

    Call `begin` before the first step, and after `load_state_dict`.

    Attributes:
        module: Fabric's wrapper of a `ModelAndLoss`.
        optimizer: Fabric's wrapper of `raw_optimizer`.
        number: the present stage.
    """

    module: _FabricModule
    optimizer: _FabricOptimizer
    raw_optimizer: torch.optim.Optimizer

    def __init__(
        self,
        fabric: Fabric,
        model: host.Sam3Image,
        loss: GroundingLoss,
        options: StageOptions,
        optim: OptimizerOptions,
        max_steps: int,
    ) -> None:
        self.fabric, self.model, self._loss = fabric, model, loss
        self._options, self._optim, self._max_steps = options, optim, max_steps
        self._boundaries = options.steps(max_steps)
        self.number = options.number
        self._began: dict[int, int] = {}  # the step after which each later stage began
        self._best_loss, self._waited = math.inf, 0  # of the present stage, for `plateau`

    def begin(self, previous: torch.optim.Optimizer | None = None) -> StageReport:
        """Let the present stage's parameters train; those that went on before keep their optimizer state."""
        report = set_stage(self.model, self.number, self._options.layers)
        starts = {group: self._began.get(stage, 0) for stage, groups in _GROUPS_OF_STAGE.items() for group in groups}
        key_layers = self._options.layers if self._options.number < 3 else ()
        self.module = self.fabric.setup_module(ModelAndLoss(self.model, self._loss))
        self.raw_optimizer = build_optimizer(  # of the parameters as they are now: sharding replaces them
            self.model, self._optim, key_layers=key_layers, starts=starts, previous=previous
        )
        optimizer = self.fabric.setup_optimizers(self.raw_optimizer)
        assert not isinstance(optimizer, tuple)
        self.optimizer = optimizer
        return replace(report, groups=describe_groups(self.raw_optimizer))

    def set_training_mode(self, *, checkpoint_activations: bool) -> None:
        """Call the function of this name on the model."""
        set_training_mode(self.model, checkpoint_activations=checkpoint_activations)

    def set_learning_rates(self, step: int) -> dict[str, float]:
        """Set the rates for the step after `step` steps; returns them by group."""
        return set_learning_rates(self.raw_optimizer, self._optim, step, self._max_steps)

    def advance(self, step: int, val_loss: float | None) -> StageReport | None:
        """Begin the next stage if its time has come after `step` steps; returns what trains in it."""
        if not self._is_due(step, val_loss):
            return None
        self.number += 1
        self._began[self.number] = step
        self._best_loss, self._waited = math.inf, 0
        del self.module  # it holds on to the parameters of the stage before
        return self.begin(previous=self.raw_optimizer)

    def state_dict(self) -> dict[str, Any]:
        """The present stage and what decides when it ends."""
        return {"number": self.number, "began": dict(self._began), "best_loss": self._best_loss, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; `begin` is still to be called."""
        self.number, self._began = state["number"], dict(state["began"])
        self._best_loss, self._waited = state["best_loss"], state["waited"]

    def _is_due(self, step: int, val_loss: float | None) -> bool:
        if not self._options.plateau:
            passed = self.number - self._options.number
            return passed < len(self._boundaries) and step >= self._boundaries[passed]
        if val_loss is None or self.number == self._options.last:
            return False
        if val_loss < self._best_loss:
            self._best_loss, self._waited = val_loss, 0
        else:
            self._waited += 1
        return self._waited >= self._options.plateau
