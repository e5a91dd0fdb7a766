"""Peak of the memory that real steps on the CPU take, by PyTorch's profiler: what a forecast is compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss, count_targets
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.inject import inject
from sam3_hyperet.precision import autocast
from sam3_hyperet.training.memory.forecast import FixedMatcher, StepKind, small_batch
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import set_stage, set_training_mode


def measured_peak(kind: StepKind, images: int, prompts: int, *, checkpoint_activations: bool = False) -> int:
    """Bytes of a real pass, forward and backward, with the weights and AdamW's moments; for a `kind` on the CPU."""
    model = build_model(kind.model.name, checkpoint="random", resolution=kind.model.resolution)
    if not kind.hyperet.is_empty:
        inject(model, kind.hyperet)
    set_stage(model, kind.stage.last, kind.stage.layers)
    model.matcher = FixedMatcher(1)
    loss = GroundingLoss(model, kind.loss)
    loss.wrapper.o2m_matcher = FixedMatcher(kind.one_to_many)
    present = prompts if kind.present is None else kind.present
    batch = small_batch(images, prompts, present, kind.objects, side=resolution(model))
    counts = count_targets([batch])

    def step() -> None:
        set_training_mode(model, checkpoint_activations=checkpoint_activations)
        with autocast(kind.precision, "cpu"):
            total: Tensor = loss(model, batch, model(batch), counts)[TOTAL]
        total.backward()

    with shared_work(model):
        peak = _peak(step)
    held = nn.ParameterList(model.parameters())
    trained = sum(p.numel() * p.element_size() for p in held if p.requires_grad)
    inputs = [batch.img_batch, batch.find_targets[0].segments, batch.find_targets[0].semantic_segments]
    whole = [*held, *model.buffers(), *inputs]
    return peak + sum(one.numel() * one.element_size() for one in whole) + 2 * trained


def _peak(call: Callable[[], None]) -> int:
    """The most bytes that a call has allocated and not yet freed."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    results = profiler.profiler.kineto_results
    stack, most = list(results.experimental_event_tree()), 0
    while stack:
        event = stack.pop()
        stack += event.children
        fields = event.extra_fields
        if isinstance(fields, torch._C._profiler._ExtraFields_Allocation):
            most = max(most, fields.total_allocated)
    return most
