"""One optimizer step over the batches of all processes: model, loss, backward pass, clipped gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.losses.grounding import TOTAL, Counts, GroundingLoss, count_targets
from sam3_hyperet.training.batches import parts_of
from sam3_hyperet.training.distributed import gathered
from sam3_hyperet.training.optimizer import gradient_norms

if TYPE_CHECKING:
    from sam3_hyperet.training.stages import Stages


class KeptPrecision:
    """A batch that Fabric's wrapper passes on as it is; it would round images and target boxes to bfloat16."""

    def __init__(self, batch: host.BatchedDatapoint) -> None:
        self.batch = batch


class ModelAndLoss(nn.Module):
    """Model and loss as one module, so that Fabric's wrapper sees plain tensors come out."""

    def __init__(self, model: host.Sam3Image, loss: GroundingLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, kept: KeptPrecision, step: Counts | None = None) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.loss(self.model, kept.batch, self.model(kept.batch), step)
        return terms


@dataclass
class Passes:
    """How the batches of a step go through the model: the memory that a step takes, at the price of its time.

    Attributes:
        prompts_at_once: of one image in a pass; 0 for a batch a pass.
        checkpoint_activations: recompute activations in the backward pass.
    """

    prompts_at_once: int = 0
    checkpoint_activations: bool = False

    def split(self, batches: Sequence[host.BatchedDatapoint]) -> list[host.BatchedDatapoint]:
        """The batches of the passes, in order."""
        if not self.prompts_at_once:
            return list(batches)
        return [part for batch in batches for part in parts_of(batch, self.prompts_at_once)]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        vars(self).update(state)


def optimize(
    fabric: Fabric,
    stages: Stages,
    batches: Sequence[host.BatchedDatapoint],
    clip_norm: float,
    *,
    by_group: bool,
    passes: Passes | None = None,
) -> tuple[dict[str, Tensor], dict[str, float] | None]:
    """Take one optimizer step of the loss that one batch of all images would have.

    Only the backward pass of the last one of this process's `passes` through the `batches` synchronises gradients; None
    for a batch a pass.
    Returns the loss terms of the whole step, in all processes and on the CPU, and the gradient's norm by metric, before
    it was clipped; or None for it where loss or gradient was not finite and nothing was changed.
    """
    module, optimizer = stages.module, stages.optimizer
    passes = passes or Passes()
    stages.set_training_mode(checkpoint_activations=passes.checkpoint_activations)
    counts = Counts(*_summed(fabric, torch.tensor(count_targets(batches))).tolist())
    optimizer.zero_grad(set_to_none=True)
    parts = []
    split = passes.split(batches)
    for left, batch in zip(reversed(range(len(split))), split, strict=True):
        with fabric.no_backward_sync(module, enabled=left > 0):
            terms = module(KeptPrecision(batch), counts)
            fabric.backward(terms[TOTAL] * fabric.world_size)  # the processes' gradients are averaged
        parts.append(torch.stack([term.detach().float() for term in terms.values()]))
    summed = _summed(fabric, torch.stack(parts).sum(dim=0))
    groups = gradient_norms(stages.raw_optimizer) if by_group else {}
    norm = gathered(fabric.clip_gradients(module, optimizer, max_norm=clip_norm, error_if_nonfinite=False))
    # the device is waited for once
    every = torch.cat([summed, torch.stack([norm, *groups.values()]).to(summed)]).cpu()
    terms = dict(zip(terms, every, strict=False))
    total, norm, *of_groups = [float(terms[TOTAL]), *every[len(terms) :].tolist()]
    if not (math.isfinite(total) and math.isfinite(norm)):
        optimizer.zero_grad(set_to_none=True)
        return terms, None
    optimizer.step()
    norms = {f"train/gradient_norm/{group}": value for group, value in zip(groups, of_groups, strict=True)}
    return terms, {"train/gradient_norm": norm, **(norms if len(norms) > 1 else {})}


def _summed(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum over all processes."""
    return values if fabric.world_size == 1 else fabric.all_reduce(values.to(fabric.device), reduce_op="sum")
