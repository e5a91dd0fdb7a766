"""Time of the schemes on the official architecture (random weights, CPU): adapters on against off."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import attention, timing
from sam3_hyperet import sam3_host as host
from sam3_hyperet.inference.grounding import find_stage
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.inject import adapters_disabled, inject
from sam3_hyperet.modeling.parameters import parameter_report

SCHEMES = ("A", "B", "C", "P", "A+B")
PROMPT = "a small red car"


def run(resolution: int = 1008, repeats: int = 5, whole: int = 2, threads: int = 2) -> dict[str, float]:
    """Time attention (`benchmarks.attention`), encoder and whole model, in turn with adapters on and off; print tables.

    Args:
        repeats: turns of attention, and of the fusion encoder under B and under C.
        whole: turns of the whole forward pass of one image and one prompt, under A+B and under P; 0 leaves it out.

    Returns:
        `schemes/encoder/B/ratio`, `schemes/whole/A+B/ratio` and so on, adapters on to off; seconds of the base,
        `…/base_s`; and `schemes/<scheme>/added` parameters and `…/added_ratio`, with the default structure.
    """
    results = attention.run(repeats=repeats, threads=threads)
    with timing.threads(threads):
        for scheme in SCHEMES:
            base = build_model("large", checkpoint="random", resolution=resolution)
            model = inject(base, HyperETConfig(scheme=scheme))
            report = parameter_report(model)
            results |= {f"schemes/{scheme}/{key}": report[key] for key in ("added", "added_ratio")}
            if scheme in ("B", "C"):
                results |= _paired(f"schemes/encoder/{scheme}", model, _encoder_call(model, resolution), repeats)
            if scheme in ("P", "A+B") and whole:
                results |= _paired(f"schemes/whole/{scheme}", model, _whole_call(model, resolution), whole)
        _print(results, f"large, random weights, {resolution} px, {threads} threads, CPU")
    return results


@torch.inference_mode()
def _paired(name: str, model: host.Sam3Image, call: Callable[[], object], turns: int) -> dict[str, float]:
    def off() -> float:
        with adapters_disabled(model):
            return timing.seconds(call)

    times = timing.in_turn({"on": lambda: timing.seconds(call), "off": off}, turns)
    return {f"{name}/ratio": timing.ratio(times["on"], times["off"]), f"{name}/base_s": statistics.median(times["off"])}


def _encoder_call(model: host.Sam3Image, resolution: int) -> Callable[[], object]:
    """The fusion encoder on one image's (72 · 72 at 1008 pixels) tokens and a prompt of 32."""
    side, width = resolution // 14, model.hidden_dim
    tokens, positions = torch.randn(2, side**2, 1, width)
    prompt = torch.randn(32, 1, width)

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
    image = torch.randn(1, 3, resolution, resolution)
    text = model.backbone.forward_text([PROMPT], device="cpu")

    def call() -> object:
        return model.forward_grounding(
            backbone_out={**model.backbone.forward_image(image), **text},
            find_input=find_stage(range(1), torch.device("cpu")),
            find_target=None,
            geometric_prompt=model._get_dummy_prompt(1),
        )

    return call


def _print(results: dict[str, float], title: str) -> None:
    rows = []
    for scheme in SCHEMES:
        ratios = [results.get(f"schemes/{part}/{scheme}/ratio") for part in ("encoder", "whole")]
        added, of_model = (results[f"schemes/{scheme}/{key}"] for key in ("added", "added_ratio"))
        rows.append([scheme, f"{added:,}", f"{of_model:.4%}", *("" if r is None else f"{r:.3f} ×" for r in ratios)])
    timing.print_table(title, ("scheme", "added parameters", "of the model", "encoder", "whole forward"), rows)
