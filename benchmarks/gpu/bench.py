"""The card, the clock and the model that all sections of the GPU benchmark share."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, TypeVar

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor, nn

from benchmarks.large import one_image
from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import FP32, TF32
from sam3_hyperet.inference.grounding import find_stage
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.precision import float32_products

GIB = 2**30
T = TypeVar("T")
Figures = dict[str, object]
Output = dict[str, Tensor]


class Bench:
    """One card and one base model.

    Args:
        device: CUDA, or the CPU for a dry run.
        architecture: "large" (random weights) or "tiny".
        repeats: timed calls of everything that takes milliseconds; what takes longer has a quarter of them.
        ends: the `time.perf_counter` at which the whole benchmark has to be done.
        compiles: measure compiled operators as well.

    Attributes:
        left_out: items of the present section for which no time was left.
        reference_s: seconds of a step of scheme A by prompts and precision, for ratios.
    """

    def __init__(self, device: torch.device, architecture: str, repeats: int, ends: float, compiles: bool) -> None:
        self.device = device
        self.architecture = architecture
        self.repeats = repeats
        self.ends = ends
        self.compiles = compiles
        self._deadline = ends
        self.left_out: list[str] = []
        self.reference_s: dict[tuple[int, str], float] = {}

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def card(self) -> str:
        """Name of the card."""
        return torch.cuda.get_device_name(self.device) if self.is_cuda else "CPU"

    @cached_property
    def base(self) -> host.Sam3Image:
        """The base model, on the device; only `training.everything` changes its weights."""
        weights = "random" if self.architecture == "large" else None
        return build_model(self.architecture, checkpoint=weights).to(self.device)

    @cached_property
    def side(self) -> int:
        """Side of the model's input in pixels."""
        return resolution(self.base)

    def begin(self, budget: float) -> None:
        """Start a section of at most `budget` seconds."""
        self.left_out = []
        self._deadline = min(self.ends, time.perf_counter() + budget)
        self.free()

    def items(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until the section's time is over; the others are `left_out`."""
        for item in items:
            if time.perf_counter() >= self._deadline:
                self.left_out.append(str(item))
            else:
                yield item
                self.free()

    def free(self) -> None:
        """Return memory that nothing holds any more to the card."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def clock(self) -> float:
        """Seconds of the host's clock when the card has done all that it was given."""
        self.synchronize()
        return time.perf_counter()

    def milliseconds(self, call: Callable[[], object], repeats: int | None = None, warm_up: int = 3) -> float:
        """Median time of a call, by CUDA's events, after the calls that warm up the card."""
        for _ in range(warm_up if self.is_cuda else 0):
            call()
        times = []
        for _ in range(repeats or self.repeats):
            if self.is_cuda:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                end.record()
                end.synchronize()
                times.append(start.elapsed_time(end))
            else:
                times.append(self.seconds(call) * 1e3)
        return statistics.median(times)

    def seconds(self, call: Callable[[], object]) -> float:
        """Time of one call by the clock, the card's work included."""
        start = self.clock()
        call()
        return self.clock() - start

    def timed(self, call: Callable[[], object], warm_up: int = 2) -> float:
        """Median seconds of a long call by the clock, the host's own work included; the card is warm."""
        for _ in range(warm_up if self.is_cuda else 0):
            call()
        return statistics.median(self.seconds(call) for _ in range(max(1, self.repeats // 4)))

    def peak_gib(self, call: Callable[[], object]) -> float | None:
        """Most GiB of the card that tensors hold during a call; None on the CPU."""
        if not self.is_cuda:
            call()
            return None
        self.free()
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated(self.device) / GIB

    def compiled(self, module: nn.Module) -> Callable[..., Any]:
        """The module compiled into one graph, without what the compiler keeps of earlier ones."""
        torch._dynamo.reset()
        compiled: Callable[..., Any] = torch.compile(module, fullgraph=True)
        return compiled

    def batch(self, prompts: int) -> host.BatchedDatapoint:
        """One image with a target for each of its prompts, on the device."""
        return move_data_to_device(one_image(prompts, self.side), self.device)

    @contextlib.contextmanager
    def precision(self, name: str) -> Iterator[None]:
        """Within it, compute in "fp32", "tf32" (fp32 with TF32 matrix products and convolutions), "bf16" (autocast,
        what stays in fp32 by PyTorch's default: TF32 in convolutions alone) or "bf16+tf32"."""
        allowed = {"fp32": False, "tf32": True, "bf16": None, "bf16+tf32": True}[name]
        mixed = name.startswith("bf16")
        with tf32(allowed), torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
            yield


@contextlib.contextmanager
def tf32(allowed: bool | None) -> Iterator[None]:
    """Within it, matrix products and convolutions may, or may not, use TF32; None leaves the setting."""
    with contextlib.nullcontext() if allowed is None else float32_products(TF32 if allowed else FP32):
        yield


@torch.inference_mode()
def ground(model: host.Sam3Image, image: Tensor, texts: list[str]) -> Output:
    """SAM 3's own outputs for prompts on one image, (1, 3, S, S)."""
    device = image.device
    features = {**model.backbone.forward_image(image), **model.backbone.forward_text(texts, device=device)}
    output = model.forward_grounding(
        backbone_out=features,
        find_input=find_stage(range(len(texts)), device),
        find_target=None,
        geometric_prompt=model._get_dummy_prompt(len(texts)),
    )
    names = ("pred_logits", "pred_boxes_xyxy", "pred_masks", "presence_logit_dec", "semantic_seg")
    return {name: output[name].float() for name in names}


def difference(one: Output, other: Output) -> float:
    """Largest absolute difference of two outputs; infinite where one of them is not finite."""
    largest = 0.0
    for name, values in one.items():
        gap = float((values - other[name].to(values.device)).abs().max())
        largest = max(largest, gap if math.isfinite(gap) else math.inf)
    return largest


@torch.no_grad()
def perturb(model: nn.Module, scale: float) -> None:
    """Move every adapter parameter away from the identity by noise of this standard deviation."""
    generator = torch.Generator().manual_seed(0)
    for _, parameter in adapter_parameters(model):
        parameter.add_((scale * torch.randn(parameter.shape, generator=generator)).to(parameter.device))
