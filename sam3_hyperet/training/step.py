"""One optimizer step over the batches of all processes: model, loss, backward pass, clipped gradient."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import UserError
from sam3_hyperet.losses.grounding import TOTAL, Counts, GroundingLoss, count_targets
from sam3_hyperet.training.batches import parts_of
from sam3_hyperet.training.distributed import gathered
from sam3_hyperet.training.gathering import reduced
from sam3_hyperet.training.optimizer import gradient_norms
from sam3_hyperet.training.state import random_generators, set_random_generators

if TYPE_CHECKING:
    from sam3_hyperet.training.stages import Stages

logger = logging.getLogger(__name__)
_SHORTAGES = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""What is in the messages of libraries that allocate beside PyTorch, whose errors have no type of their own."""
_OTHER_LOSS = (
    "loss.alignment compares the prompts of a pass, which are %d from here on: it is another loss, and 0 for a prompt "
    "alone; use a smaller train.batch_size for all steps to be of one loss"
)


class KeptPrecision:
    """A batch that Fabric's wrapper passes on as it is; it would round images and target boxes to bfloat16."""

    def __init__(self, batch: host.BatchedDatapoint) -> None:
        self.batch = batch


class ModelAndLoss(nn.Module):
    """Model and loss as one module, so that Fabric's wrapper sees plain tensors come out."""

    def __init__(self, model: host.Sam3Image, loss: GroundingLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, kept: KeptPrecision | None, step: Counts | None = None) -> dict[str, Tensor]:
        """Loss terms of a batch; of None a loss of 0, whose backward pass only sends what gradients there are."""
        if kept is None:
            return {TOTAL: torch.stack([p.flatten()[0] * 0.0 for p in self.parameters() if p.grad is not None]).sum()}
        terms: dict[str, Tensor] = self.loss(self.model, kept.batch, self.model(kept.batch), step)
        return terms


@dataclass
class Passes:
    """How the batches of a step go through the model: the memory that a step takes, at the price of its time.

    Attributes:
        prompts_at_once: of one image in a pass; 0 for a batch a pass.
        checkpoint_activations: recompute activations in the backward pass.
        repeats: whether a step that runs out of memory is repeated with less of it.
        contrasts: whether the loss compares the prompts of a pass (`loss.alignment`), so that smaller passes change it.
        repeated: how often that has happened.
    """

    prompts_at_once: int = 0
    checkpoint_activations: bool = False
    repeats: bool = field(default=False, compare=False)
    contrasts: bool = field(default=False, compare=False)
    repeated: int = field(default=0, compare=False)

    def split(self, batches: Sequence[host.BatchedDatapoint]) -> list[host.BatchedDatapoint]:
        """The batches of the passes, in order."""
        if not self.prompts_at_once:
            return list(batches)
        return [part for batch in batches for part in parts_of(batch, self.prompts_at_once)]

    def shrink(self, batches: Sequence[host.BatchedDatapoint]) -> bool:
        """Halve the prompts at once, or recompute activations; whether there was less to take.

        Activations are recomputed where a pass has one prompt, or first where smaller passes change the loss.
        """
        largest = max(len(part.find_inputs[0].img_ids) for part in self.split(batches))
        if not self.checkpoint_activations and (self.contrasts or largest == 1):
            self.checkpoint_activations = True
        elif largest > 1:
            self.prompts_at_once = (largest + 1) // 2
            if self.contrasts:
                logger.warning(_OTHER_LOSS, self.prompts_at_once)
        else:
            return False
        self.repeated += 1
        return True

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {name: value for name, value in asdict(self).items() if name not in ("repeats", "contrasts")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        vars(self).update(state)

    def __str__(self) -> str:
        recomputed = str(self.checkpoint_activations).lower()
        return f"train.prompts_at_once={self.prompts_at_once} train.checkpoint_activations={recomputed}"


class OutOfMemory(UserError, RuntimeError):
    """A step that does not fit into the device's memory; the message has the remedy."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device has run out of memory: by PyTorch's own error, or one of CUDA and its libraries."""
    return isinstance(error, torch.OutOfMemoryError) or any(shortage in str(error) for shortage in _SHORTAGES)


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
    it was clipped; or None for it where loss or gradient was not finite and nothing was changed. Raises OutOfMemory
    where the passes cannot be, or must not be, made smaller.
    """
    module, optimizer = stages.module, stages.optimizer
    passes = passes or Passes()
    counts = Counts(*reduced(fabric, torch.tensor(count_targets(batches)), "sum").tolist())
    names, sums = _run_passes(fabric, stages, batches, counts, passes)
    summed = reduced(fabric, sums, "sum")
    groups = gradient_norms(stages.raw_optimizer) if by_group else {}
    clipped = fabric.clip_gradients(module, optimizer, max_norm=clip_norm, error_if_nonfinite=False)
    assert clipped is not None  # as with any max_norm
    # the device is waited for once
    every = torch.cat([summed, torch.stack([gathered(clipped), *groups.values()]).to(summed)]).cpu()
    terms = dict(zip(names, every, strict=False))
    total, norm, *of_groups = [float(terms[TOTAL]), *every[len(terms) :].tolist()]
    if not (math.isfinite(total) and math.isfinite(norm)):
        optimizer.zero_grad(set_to_none=True)
        return terms, None
    optimizer.step()
    norms = {f"train/gradient_norm/{group}": value for group, value in zip(groups, of_groups, strict=True)}
    repeated = {"train/out_of_memory": float(passes.repeated)} if passes.repeated else {}
    return terms, {"train/gradient_norm": norm, **(norms if len(norms) > 1 else {}), **repeated}


def _run_passes(
    fabric: Fabric, stages: Stages, batches: Sequence[host.BatchedDatapoint], counts: Counts, passes: Passes
) -> tuple[list[str], Tensor]:
    """Accumulate the step's gradient; the names of the loss terms, and this process's sums of them.

    Where memory runs out the passes begin anew with less of it, from the same random generators. In several processes
    that is sound as long as no gradient has been sent: one that has run out must send as many as the others. So the
    gradients of adapters, which are small, are sent apart, after all passes; other stages end with an OutOfMemory.
    """
    are_adapters = stages.number == 1 and isinstance(fabric.strategy, DDPStrategy)
    is_apart = passes.repeats and fabric.world_size > 1 and are_adapters
    may_repeat = passes.repeats and (is_apart or fabric.world_size == 1)
    generators = random_generators(fabric.device) if may_repeat else []
    while True:
        shortage = ""
        try:
            names, sums = _accumulated(fabric, stages, passes.split(batches), counts, passes, is_apart)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            shortage = str(error).partition("\n")[0].partition(". ")[0]  # the error holds on to its frames' tensors
        if not shortage:
            break
        stages.optimizer.zero_grad(set_to_none=True)
        before = str(passes)
        if not may_repeat or not passes.shrink(batches):
            raise OutOfMemory(_out_of_memory_message(shortage, passes, fabric.world_size))
        logger.warning("out of memory with %s: the step is repeated with %s, as are all others", before, passes)
        if fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        set_random_generators(generators[0])
    if is_apart:
        fabric.backward(stages.module(None)[TOTAL])
        _agree(fabric, passes)
    return names, sums


def _accumulated(
    fabric: Fabric,
    stages: Stages,
    parts: Sequence[host.BatchedDatapoint],
    counts: Counts,
    passes: Passes,
    is_apart: bool,
) -> tuple[list[str], Tensor]:
    """One forward and backward pass for each part, from no gradient on."""
    module = stages.module
    stages.set_training_mode(checkpoint_activations=passes.checkpoint_activations)
    stages.optimizer.zero_grad(set_to_none=True)
    values = []
    for left, batch in zip(reversed(range(len(parts))), parts, strict=True):
        if is_apart:  # without the wrapper, which sends buffers
            with fabric.autocast():
                terms = module.module(KeptPrecision(batch), counts)
            fabric.backward(terms[TOTAL].float() * fabric.world_size)
        else:
            with fabric.no_backward_sync(module, enabled=left > 0):
                terms = module(KeptPrecision(batch), counts)
                fabric.backward(terms[TOTAL] * fabric.world_size)  # the processes' gradients are averaged
        values.append(torch.stack([term.detach().float() for term in terms.values()]))
    return list(terms), torch.stack(values).sum(dim=0)


def _agree(fabric: Fabric, passes: Passes) -> None:
    """Let all processes go on with the passes of the one that has least memory."""
    fraction = 1 / passes.prompts_at_once if passes.prompts_at_once else 0.0
    mine = [fraction, passes.checkpoint_activations, passes.repeated]
    most = reduced(fabric, torch.tensor(mine, dtype=torch.float32), "max")
    fraction, checkpointing, repeated = most.tolist()
    passes.prompts_at_once = round(1 / fraction) if fraction else 0
    passes.checkpoint_activations, passes.repeated = bool(checkpointing), int(repeated)


def _out_of_memory_message(shortage: str, passes: Passes, processes: int) -> str:
    found = f"the step does not fit into the device's memory, with {passes} ({shortage})"
    if not passes.repeats:
        return f"{found}; expected train.memory=auto, train.prompts_at_once=1 or train.checkpoint_activations=true"
    if processes > 1 and not (passes.checkpoint_activations and passes.prompts_at_once == 1):
        remedy = "train.prompts_at_once=1, train.checkpoint_activations=true or a smaller train.batch_size"
        return f"{found}; several processes cannot repeat it in this stage: expected {remedy}"
    return f"{found}; use a smaller resolution, fewer objects an image, train.precision=bf16-mixed or a larger card"
