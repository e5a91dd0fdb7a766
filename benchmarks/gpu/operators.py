"""Sections on single operators: the card's ceilings, adjustments, attention, and regions under the compiler."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.bench import Bench, Figures, ground
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.adapters.attention import ATTENTION_GEOMETRIES, HyperbolicGates
from sam3_hyperet.choices import GEOMETRIES, STRUCTURES

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COMPILED = (("diagonal", "lorentz"), ("dense", "lorentz"), ("dense", "mobius"))
Call = Callable[..., Tensor]


def ceilings(bench: Bench) -> Figures:
    """Terabytes a second of a large copy, and teraFLOP/s of a large matrix product."""
    side = 8192 if bench.is_cuda else 256
    figures: Figures = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    source = torch.randn(side * side * 4, device=bench.device)
    target = torch.empty_like(source)
    figures["copy_TB_per_s"] = 2 * source.nbytes / bench.milliseconds(lambda: target.copy_(source)) / 1e9
    for name, dtype in {**DTYPES, "tf32": torch.float32}.items():
        a, b = torch.randn(2, side, side, device=bench.device).to(dtype).unbind()
        with bench.precision("tf32" if name == "tf32" else "fp32"):
            took = bench.milliseconds(lambda a=a, b=b: a @ b, repeats=max(1, bench.repeats // 2))
        figures[f"matmul_TFLOP_per_s/{name}"] = 2 * side**3 / took / 1e9
    if bench.is_cuda:
        memory = torch.cuda.get_device_properties(bench.device).total_memory
        figures["memory_gib"] = memory / 2**30
        figures["capability"] = ".".join(map(str, torch.cuda.get_device_capability(bench.device)))
    return figures


def operators(bench: Bench) -> Figures:
    """Every geometry and structure on one pyramid level, over a 1 × 1 convolution in the same dtype.

    `…/forward_ratio` is without gradients, `…/both_ratio` forward and backward with those of input and parameters.
    """
    figures: Figures = {}
    for name, dtype in DTYPES.items():
        x, gradient = _level(bench, dtype)
        base = _convolution(bench, x, gradient)
        figures |= {f"{name}/convolution/{kind}_ms": ms for kind, ms in base.items()}
        for structure, geometry in bench.items(itertools.product(STRUCTURES, GEOMETRIES)):
            times = _times(bench, _adjustment(x, structure, geometry), [x], gradient)
            figures |= {f"{name}/{structure}/{geometry}/{kind}_ratio": ms / base[kind] for kind, ms in times.items()}
    return figures


def compiled_operators(bench: Bench) -> Figures:
    """Some of the adjustments of `operators`, compiled, over the same convolution; and their relative difference."""
    figures: Figures = {}
    for structure, geometry in bench.items(COMPILED if bench.compiles else ()):
        for name, dtype in DTYPES.items():
            x, gradient = _level(bench, dtype)
            base = _convolution(bench, x, gradient)
            adjustment = _adjustment(x, structure, geometry)
            compiled = bench.compiled(adjustment)
            key = f"{name}/{structure}/{geometry}"
            figures[f"{key}/first_call_s"] = bench.seconds(lambda c=compiled, x=x: c(x))
            times = _times(bench, compiled, [x], gradient)
            figures |= {f"{key}/{kind}_ratio": ms / base[kind] for kind, ms in times.items()}
            with torch.no_grad():
                plain = adjustment(x).float()
                figures[f"{key}/difference"] = float((compiled(x).float() - plain).abs().max() / plain.abs().max())
    return figures


def attention(bench: Bench) -> Figures:
    """Hyperbolic attention over `F.scaled_dot_product_attention`, 5,184 tokens, 8 heads of 32, open gates.

    bf16 is autocast with bf16 inputs: the gated attention keeps its own precision inside.
    """
    tokens = 5184 if bench.is_cuda else 64
    figures: Figures = {}
    for name, dtype in DTYPES.items():
        inputs = list(torch.randn(3, 1, 8, tokens, 32, device=bench.device).to(dtype))
        gradient = torch.randn_like(inputs[0])
        with bench.precision(name):
            base = _times(bench, F.scaled_dot_product_attention, inputs, gradient)
            figures |= {f"{name}/ordinary/{kind}_ms": ms for kind, ms in base.items()}
            figures[f"{name}/ordinary/peak_gib"] = bench.peak_gib(lambda i=inputs: F.scaled_dot_product_attention(*i))
            for geometry in bench.items(ATTENTION_GEOMETRIES):
                gates = _open_gates(geometry).to(bench.device)
                plain = _times(bench, gates, inputs, gradient)
                figures |= {f"{name}/{geometry}/{kind}_ratio": ms / base[kind] for kind, ms in plain.items()}
                if bench.compiles and geometry == "lorentz":
                    times = _times(bench, bench.compiled(gates), inputs, gradient)
                    figures |= {f"{name}/{geometry}/compiled/{kind}_ratio": t / base[kind] for kind, t in times.items()}
                figures[f"{name}/{geometry}/peak_gib"] = bench.peak_gib(lambda g=gates, i=inputs: g(*i))
    return figures


def regions(bench: Bench) -> Figures:
    """Regions of the model, compiled in one graph, over the same region as it is, in bf16 without gradients.

    Where a region does not compile, its figure is the first line of the error.
    """
    if not bench.compiles:
        return {}
    base = bench.base.eval()  # after steps that trained everything
    trunk, transformer = base.backbone.vision_backbone.trunk, base.transformer
    named = {
        "trunk/windowed_block": trunk.blocks[0],
        "trunk/global_block": trunk.blocks[trunk.full_attn_ids[0]],
        "encoder/layer": transformer.encoder.layers[-1],
        "decoder/layer": transformer.decoder.layers[-1],
        "mask_head/pixel_decoder": base.segmentation_head.pixel_decoder,
    }
    image = bench.batch(1).img_batch
    figures: Figures = {}
    for name in bench.items(named):
        module = named[name]
        with torch.inference_mode(), bench.precision("bf16"):
            arguments = _arguments(module, lambda: ground(base, image, ["a small red car", "wheel"]))
            plain = lambda m=module, a=arguments: m(*a[0], **a[1])  # noqa: E731
            before = bench.milliseconds(plain)
            figures[f"{name}/ms"] = before
            try:
                compiled = bench.compiled(module)
                call = lambda m=compiled, a=arguments: m(*a[0], **a[1])  # noqa: E731
                figures[f"{name}/first_call_s"] = bench.seconds(call)
                figures[f"{name}/compiled_ratio"] = bench.milliseconds(call) / before
                one, other = _first(plain()), _first(call())
                figures[f"{name}/difference"] = float((one - other).abs().max() / one.abs().max())
            except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError) as error:
                figures[f"{name}/error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    return figures


def _level(bench: Bench, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A tensor of the size of the pyramid's highest level, and a gradient of its shape."""
    channels, size = (256, 288) if bench.is_cuda else (32, 16)
    x, gradient = torch.randn(2, 1, channels, size, size, device=bench.device).to(dtype).unbind()
    return x, gradient


def _convolution(bench: Bench, x: Tensor, gradient: Tensor) -> dict[str, float]:
    return _times(bench, nn.Conv2d(x.shape[1], x.shape[1], 1, bias=False).to(x), [x], gradient)


def _adjustment(x: Tensor, structure: str, geometry: str) -> HyperET:
    adjustment = HyperET(x.shape[1], structure, geometry, channel_dim=1)
    with torch.no_grad():
        for parameter in adjustment.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return adjustment.to(x.device)


def _open_gates(geometry: str) -> HyperbolicGates:
    gates = HyperbolicGates(8, geometry=geometry, learn_curvature=geometry == "lorentz")
    with torch.no_grad():
        gates.curvature_gate.uniform_()
        gates.distance_gate.uniform_()
    return gates


def _times(bench: Bench, call: Call, inputs: Sequence[Tensor], gradient: Tensor) -> dict[str, float]:
    def forward() -> None:
        with torch.no_grad():
            call(*inputs)

    def both() -> None:
        leaves = [x.detach().requires_grad_() for x in inputs]
        if isinstance(call, nn.Module):
            call.zero_grad(set_to_none=True)
        call(*leaves).backward(gradient)

    return {"forward": bench.milliseconds(forward), "both": bench.milliseconds(both)}


def _arguments(module: nn.Module, run: Callable[[], object]) -> tuple[tuple[object, ...], dict[str, object]]:
    """What the module gets in a run of the model, the first time."""
    seen: list[tuple[tuple[object, ...], dict[str, object]]] = []
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return seen[0]


def _first(output: object) -> Tensor:
    while not isinstance(output, Tensor):
        output = output[0]  # type: ignore[index]
    return output.float()
