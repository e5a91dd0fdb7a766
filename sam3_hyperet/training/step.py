"""One optimizer step over the batches of all processes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning_fabric import Fabric
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.losses.grounding import TOTAL, Counts, count_targets
from sam3_hyperet.training.distributed import gathered
from sam3_hyperet.training.optimizer import gradient_norms
from sam3_hyperet.training.staging import Staging


def optimize(
    fabric: Fabric, staging: Staging, batches: Sequence[host.BatchedDatapoint], clip_norm: float, *, by_group: bool
) -> tuple[dict[str, Tensor], dict[str, float] | None]:
    """One optimizer step of the loss that one batch of all pictures would have.

    Args:
        batches: this process's, one after the other; only the last one's backward pass synchronises gradients.
        by_group: measure the gradient of each group of parameters as well.

    Returns:
        The loss terms of the whole step, in all processes, and the gradient's norm by metric, before it was clipped; or
        None for it where loss or gradient was not finite and nothing was changed.
    """
    module, optimizer = staging.module, staging.optimizer
    counts = Counts(*_summed(fabric, torch.tensor(count_targets(batches))).tolist())
    optimizer.zero_grad(set_to_none=True)
    parts = []
    for left, batch in zip(reversed(range(len(batches))), batches, strict=True):
        with fabric.no_backward_sync(module, enabled=left > 0):
            terms = module(batch, counts)
            fabric.backward(terms[TOTAL] * fabric.world_size)  # the processes' gradients are averaged
        parts.append(torch.stack([term.detach().float() for term in terms.values()]))
    terms = dict(zip(terms, _summed(fabric, torch.stack(parts).sum(dim=0)), strict=True))
    groups = gradient_norms(staging.raw_optimizer) if by_group else {}
    norm = gathered(fabric.clip_gradients(module, optimizer, max_norm=clip_norm, error_if_nonfinite=False))
    if not (torch.isfinite(terms[TOTAL]) and torch.isfinite(norm)):
        optimizer.zero_grad(set_to_none=True)
        return terms, None
    optimizer.step()
    norms = {f"train/gradient_norm/{group}": value for group, value in groups.items() if len(groups) > 1}
    return terms, {"train/gradient_norm": float(norm), **norms}


def _summed(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum over all processes."""
    if fabric.world_size == 1:
        return values
    summed: Tensor = fabric.all_reduce(values.to(fabric.device), reduce_op="sum")
    return summed
