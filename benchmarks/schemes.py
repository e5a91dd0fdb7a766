"""What the schemes cost on the official architecture (random weights, CPU): the same model with adapters on and off."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import attention
from sam3_hyperet import sam3_host as host
from sam3_hyperet.inference.grounding import find_stage
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.inject import adapters_disabled, inject, parameter_report

SCHEMES = ("A", "B", "C", "P", "A+B")
PROMPT = "a small red car"


def run(resolution: int = 1008, repeats: int = 5, whole: int = 2, threads: int = 2) -> dict[str, float]:
    """Time attention (`benchmarks.attention`), encoder and whole model, in turn with adapters on and off; print tables.

    With one thread the times are those of the processor, which other jobs hardly touch; with more, those of the clock.

    Args:
        repeats: turns of attention, and of the fusion encoder under B and under C.
        whole: turns of the whole forward pass of one picture and one prompt, under A+B and under P; 0 leaves it out.

    Returns:
        Medians over the turns: `schemes/encoder/B/ratio`, `schemes/whole/A+B/ratio`…, adapters on to off; seconds of
        the base, `…/base_s`; and `schemes/<scheme>/added` parameters and `…/added_ratio`, with the default structure.
    """
    figures = attention.run(repeats=repeats, threads=threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for scheme in SCHEMES:
            model = inject(build_model("large", resolution=resolution), HyperETConfig(scheme=scheme))
            report = parameter_report(model)
            figures |= {f"schemes/{scheme}/{key}": report[key] for key in ("added", "added_ratio")}
            timed: dict[str, tuple[Callable[[], object], int]] = {}
            if scheme in ("B", "C"):
                timed["encoder"] = _encoder_call(model, resolution), repeats
            if scheme in ("P", "A+B"):
                timed["whole"] = _whole_call(model, resolution), whole
            for part, (call, turns) in timed.items():
                if turns:
                    figures |= _paired(f"schemes/{part}/{scheme}", model, call, turns)
        _print(figures, f"large, random weights, {resolution} px, {threads} threads, CPU")
    finally:
        torch.set_num_threads(before)
    return figures


def _paired(name: str, model: host.Sam3Image, call: Callable[[], object], turns: int) -> dict[str, float]:
    call()  # fills caches, P's adjusted weights among them
    on, off = [], []
    for _ in range(turns):
        on.append(_seconds(call))
        with adapters_disabled(model):
            off.append(_seconds(call))
    ratios = [x / y for x, y in zip(on, off, strict=True)]
    return {f"{name}/ratio": statistics.median(ratios), f"{name}/base_s": statistics.median(off)}


@torch.inference_mode()
def _seconds(call: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def _encoder_call(model: host.Sam3Image, resolution: int) -> Callable[[], object]:
    """The fusion encoder on one picture's (72 · 72 at 1008 pixels) tokens and a prompt of 32."""
    side, width = resolution // 14, model.hidden_dim
    tokens, positions, prompt = (
        torch.randn(side**2, 1, width),
        torch.randn(side**2, 1, width),
        torch.randn(32, 1, width),
    )

    def call() -> Tensor:
        output = model.transformer.encoder(
            src=[tokens],
            prompt=prompt,
            src_pos=[positions],
            feat_sizes=[(side, side)],
            prompt_key_padding_mask=torch.zeros(1, 32, dtype=torch.bool),
        )
        memory: Tensor = output["memory"]
        return memory

    return call


def _whole_call(model: host.Sam3Image, resolution: int) -> Callable[[], object]:
    picture = torch.randn(1, 3, resolution, resolution)
    text = model.backbone.forward_text([PROMPT], device="cpu")

    def call() -> object:
        return model.forward_grounding(
            backbone_out={**model.backbone.forward_image(picture), **text},
            find_input=find_stage(range(1), torch.device("cpu")),
            find_target=None,
            geometric_prompt=model._get_dummy_prompt(1),
        )

    return call


def _print(figures: dict[str, float], title: str) -> None:
    table = Table(title=title)
    for heading in ("scheme", "added parameters", "of the model", "encoder", "whole forward"):
        table.add_column(heading, justify="left" if heading == "scheme" else "right")
    for scheme in SCHEMES:
        ratios = [figures.get(f"schemes/{part}/{scheme}/ratio") for part in ("encoder", "whole")]
        table.add_row(
            scheme,
            f"{figures[f'schemes/{scheme}/added']:,}",
            f"{figures[f'schemes/{scheme}/added_ratio']:.4%}",
            *("" if ratio is None else f"{ratio:.3f} ×" for ratio in ratios),
        )
    Console().print(table)
