"""One optimizer step over the batches of all processes: model, loss, backward pass, clipped gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.losses.grounding import TOTAL, Counts, GroundingLoss, count_targets
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


def optimize(
    fabric: Fabric, stages: Stages, batches: Sequence[host.BatchedDatapoint], clip_norm: float, *, by_group: bool
) -> tuple[dict[str, Tensor], dict[str, float] | None]:
    """Take one optimizer step of the loss that one batch of all images would have.

    Only the backward pass of the last one of this process's `batches` synchronises gradients.
    Returns the loss terms of the whole step, in all processes, and the gradient's norm by metric, before it was
    clipped; or None for it where loss or gradient was not finite and nothing was changed.
    """
    module, optimizer = stages.module, stages.optimizer
    counts = Counts(*_summed(fabric, torch.tensor(count_targets(batches))).tolist())
    optimizer.zero_grad(set_to_none=True)
    parts = []
    for left, batch in zip(reversed(range(len(batches))), batches, strict=True):
        with fabric.no_backward_sync(module, enabled=left > 0):
            terms = module(KeptPrecision(batch), counts)
            fabric.backward(terms[TOTAL] * fabric.world_size)  # the processes' gradients are averaged
        parts.append(torch.stack([term.detach().float() for term in terms.values()]))
    terms = dict(zip(terms, _summed(fabric, torch.stack(parts).sum(dim=0)), strict=True))
    groups = gradient_norms(stages.raw_optimizer) if by_group else {}
    norm = gathered(fabric.clip_gradients(module, optimizer, max_norm=clip_norm, error_if_nonfinite=False))
    if not (torch.isfinite(terms[TOTAL]) and torch.isfinite(norm)):
        optimizer.zero_grad(set_to_none=True)
        return terms, None
    optimizer.step()
    norms = {f"train/gradient_norm/{group}": value for group, value in groups.items() if len(groups) > 1}
    return terms, {"train/gradient_norm": float(norm), **norms}


def _summed(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum over all processes."""
    return values if fabric.world_size == 1 else fabric.all_reduce(values.to(fabric.device), reduce_op="sum")
