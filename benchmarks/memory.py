"""Forecasts of a step's memory: beside real steps on the CPU, and for the steps that the GPU benchmark measures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.inference import SCHEMES
from benchmarks.gpu.training import EVERYTHING, STAGE_1, Case
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss, count_targets
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.modeling.inject import inject
from sam3_hyperet.modeling.modes import set_training_mode
from sam3_hyperet.precision import autocast
from sam3_hyperet.training.memory.forecast import FixedMatcher, Forecaster, StepKind, small_batch
from sam3_hyperet.training.options import StageOptions
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import set_stage

FORECASTS = Path(__file__).parent / "gpu" / "forecasts.json"
"""Forecast peaks in GiB, by the name of a case of the GPU benchmark."""
_GIB = 2**30
_TINY = StepKind(ModelOptions("tiny"), HyperETConfig(), precision="32-true", objects=2, device="cpu")
_LARGE = replace(_TINY, model=ModelOptions("large", "random", resolution=336))


def run(prompts: int = 4, measure: bool = True, update: bool = False) -> dict[str, object]:
    """Forecast, and measure what the CPU can run.

    Args:
        prompts: of the image in a measured step.
        measure: real steps of the tiny model, and of `large` at 336 pixels, which take 10 GB of memory.
        update: write the forecasts for the GPU benchmark's steps anew, to the file that it reads.

    Returns for each measured step its `forecast` and `measured` GiB and their `ratio`.
    """
    found: dict[str, object] = {}
    if update:
        cases = list(dict.fromkeys([*STAGE_1, *EVERYTHING]))
        FORECASTS.write_text(json.dumps({str(case): _of_case(case) for case in cases}, indent=1) + "\n")
    for name, kind in (("tiny", _TINY), ("large at 336 pixels", _LARGE)) if measure else ():
        for scheme in ("A", "P"):
            for precision in ("32-true", "bf16-mixed"):
                of_scheme = replace(kind, hyperet=HyperETConfig(scheme=scheme), precision=precision)
                for checkpointing in (False, True):
                    row = f"{name}, {scheme}, {precision}" + (", checkpointing" if checkpointing else "")
                    step = Forecaster(of_scheme).step(1, prompts, checkpoint_activations=checkpointing)
                    measured = measured_peak(of_scheme, 1, prompts, checkpoint_activations=checkpointing)
                    found[row] = {
                        "forecast": round(step.passes / _GIB, 3),
                        "measured": round(measured / _GIB, 3),
                        "ratio": round(step.passes / measured, 3),
                    }
                    print(f"{row}: {found[row]}", flush=True)  # noqa: T201
    return found


def _of_case(case: Case) -> float:
    """GiB of a step of the GPU benchmark, in which random queries match no object in the second branch."""
    is_everything = case.scheme == "everything"
    kind = StepKind(
        ModelOptions("large", "random"),
        HyperETConfig(scheme="none") if is_everything else SCHEMES[case.scheme],
        StageOptions(3) if is_everything else StageOptions(),
        precision="bf16-mixed" if case.precision.startswith("bf16") else "32-true",
        objects=1,
        one_to_many=0,
        is_sharing=not is_everything,
    )
    prompts = case.at_once or case.prompts
    step = Forecaster(kind).step(
        1, prompts, checkpoint_activations=is_everything or case.checkpointing, is_split=bool(case.at_once)
    )
    return round(step.peak / _GIB, 2)


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
    batch = small_batch(images, prompts, present, kind.objects, resolution(model), kind.boxes)
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
    stack = list(profiler.profiler.kineto_results.experimental_event_tree())
    changes = []
    while stack:
        event = stack.pop()
        stack += event.children
        fields = event.extra_fields
        if isinstance(fields, torch._C._profiler._ExtraFields_Allocation):
            changes.append((event.start_time_ns, fields.total_allocated, fields.alloc_size))
    _, total, size = min(changes)
    return max(total for _, total, _ in changes) - (total - size)  # an earlier profile's tensors may still be counted
