"""One training step on the official architecture (random weights, CPU): stage 1 against training everything.

Stage 1 runs without and with the feature cache; "everything" is fine-tuning as SAM 3's trainer does it.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from benchmarks import timing
from benchmarks.large import one_image
from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss, count_targets
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.build import ARCHITECTURES, assemble
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.inject import inject
from sam3_hyperet.modeling.modes import set_training_mode
from sam3_hyperet.training.batches import parts_of
from sam3_hyperet.training.feature_cache import cached_trunk
from sam3_hyperet.training.options import CacheOptions
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import set_stage
from sam3_hyperet.training.text_features import text_features_once

KINDS = ("full", "stage 1", "stage 1, cached")


class Setting(NamedTuple):
    """The options of `run` that a measurement needs."""

    resolution: int
    prompts: int
    depth: int
    steps: int
    threads: int
    attention_dropout: bool
    prompts_at_once: int


def run(
    resolution: int = 1008,
    prompts: int = 4,
    depth: int = 32,
    turns: int = 1,
    steps: int = 1,
    threads: int = 2,
    attention_dropout: bool = True,
    prompts_at_once: int = 1,
) -> dict[str, float]:
    """Time a step, batch 1, and print a table. Every measurement has a process of its own, for its peak of memory.

    `full` trains every parameter in fp32, all modules in training mode, with SAM 3's activation checkpointing.
    `stage 1` trains the adapters of scheme A, without checkpointing. The features of the prompts, which a run computes
    once, are kept before steps are timed, and so is the cache filled.

    Args:
        depth: blocks of the ViT, a multiple of 8 up to the official 32.
        turns: measurements of each kind, in turn.
        steps: of a measurement, of which the last is timed.
        attention_dropout: in `full`, as officially. A CPU has no fused attention with dropout: without it `full` is
            what a fused kernel would make of it, and the comparison is stricter.
        prompts_at_once: of the image in a pass of stage 1.

    Returns:
        `training/<kind>/step_s`, `…/speedup` and `…/memory_ratio` against `full`, `…/peak_gib`.

    Raises:
        ConfigError: another depth.
    """
    if depth % 8 or not 8 <= depth <= 32:
        raise ConfigError(f"benchmark training: depth={depth}; expected 8, 16, 24 or 32")
    setting = Setting(resolution, prompts, depth, steps, threads, attention_dropout, prompts_at_once)
    times: timing.Times = {kind: [] for kind in KINDS}
    peaks = dict.fromkeys(KINDS, 0.0)
    for _ in range(turns):
        for kind in KINDS:
            took, peak = timing.in_process(partial(_measure, kind, setting), "spawn")
            times[kind].append(took)
            peaks[kind] = max(peaks[kind], peak)
    results: dict[str, float] = {}
    for kind in KINDS:
        results[f"training/{kind}/step_s"] = statistics.median(times[kind])
        results[f"training/{kind}/speedup"] = timing.ratio(times["full"], times[kind])
        results[f"training/{kind}/peak_gib"] = peaks[kind]
        results[f"training/{kind}/memory_ratio"] = peaks[kind] / peaks["full"]
    _print(results, f"large, {depth} ViT blocks, {resolution} px, batch 1, {prompts} prompts, {threads} threads, CPU")
    return results


def _measure(kind: str, setting: Setting) -> float:
    """Seconds of the last of the steps."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    sizes = replace(
        ARCHITECTURES["large"],
        resolution=setting.resolution,
        vit_depth=setting.depth,
        global_blocks=tuple(range(7, setting.depth, 8)),
    )
    model = assemble(sizes)
    loss = GroundingLoss(model, LossOptions())
    batch = one_image(setting.prompts, setting.resolution)
    # in turn, so that no step finds the features of its image from the one before
    batches = [batch, replace(batch, img_batch=-batch.img_batch)]
    with ExitStack() as stack:
        if kind != "full":
            inject(model, HyperETConfig())
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention) and not setting.attention_dropout:
                module.dropout = 0.0
        set_stage(model, 3 if kind == "full" else 1)
        if kind != "full":
            stack.enter_context(shared_work(model))
            stack.enter_context(text_features_once(model))
            stack.enter_context(shared_encoding([model]))
            model.backbone.forward_text(batch.find_text_batch, device="cpu")
        if kind.endswith("cached"):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(cached_trunk(model, CacheOptions(folder), 2, "32-true"))
            set_training_mode(model)
            for one in batches:
                model.backbone.forward_image(one.img_batch)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

        def step(batch: host.BatchedDatapoint) -> None:
            optimizer.zero_grad(set_to_none=True)
            if kind == "full":
                model.train()
                loss(model, batch, model(batch))[TOTAL].backward()
            else:
                set_training_mode(model)
                for part in parts_of(batch, setting.prompts_at_once):
                    loss(model, part, model(part), count_targets([batch]))[TOTAL].backward()
            optimizer.step()

        return [timing.seconds(partial(step, batches[k % 2])) for k in range(setting.steps)][-1]


def _print(results: dict[str, float], title: str) -> None:
    rows = []
    for kind in KINDS:
        step, speedup, peak, of_full = (
            results[f"training/{kind}/{key}"] for key in ("step_s", "speedup", "peak_gib", "memory_ratio")
        )
        rows.append([kind, f"{step:.1f} s", f"{speedup:.2f} ×", f"{peak:.1f} GiB", f"{of_full:.0%}"])
    timing.print_table(title, ("", "a step", "faster than full", "peak memory", "of full"), rows)
