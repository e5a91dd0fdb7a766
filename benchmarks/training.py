"""One training step on the official architecture (random weights, CPU): stage 1, without and with the feature cache,
against fine-tuning everything as SAM 3's trainer does it."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.large import one_picture
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss, count_targets
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.build import ARCHITECTURES, assemble
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.inject import inject
from sam3_hyperet.training.batches import parts_of
from sam3_hyperet.training.feature_cache import cached_trunk
from sam3_hyperet.training.options import CacheOptions
from sam3_hyperet.training.stages import set_stage, set_training_mode

KINDS = ("full", "stage 1", "stage 1, cached")


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
    `stage 1` trains the adapters of scheme A, without checkpointing. The cache is filled before its steps are timed.

    Args:
        depth: blocks of the ViT, a multiple of 8 up to the official 32.
        turns: measurements of each kind, in turn; a ratio is the median of the ratios within a turn.
        steps: of a measurement, of which the last is timed.
        attention_dropout: in `full`, as officially. A CPU has no fused attention with dropout: without it `full` is
            what a fused kernel would make of it, and the comparison is stricter.
        prompts_at_once: of the picture in a pass of stage 1.

    Returns:
        `training/<kind>/step_s`, `…/speedup` and `…/memory_ratio` against `full`, `…/peak_gib`.

    Raises:
        ConfigError: another depth.
    """
    if depth % 8 or not 8 <= depth <= 32:
        raise ConfigError(f"benchmark training: depth={depth}; expected 8, 16, 24 or 32")
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    peaks: dict[str, list[float]] = {kind: [] for kind in KINDS}
    context = multiprocessing.get_context("spawn")
    for _ in range(turns):
        for kind in KINDS:
            with ProcessPoolExecutor(1, context) as pool:
                took, peak = pool.submit(
                    _measure,
                    kind,
                    resolution,
                    prompts,
                    depth,
                    steps,
                    threads,
                    attention_dropout,
                    prompts_at_once,
                ).result()
            seconds[kind].append(took)
            peaks[kind].append(peak)
    figures: dict[str, float] = {}
    for kind in KINDS:
        speedups = [full / took for full, took in zip(seconds["full"], seconds[kind], strict=True)]
        figures[f"training/{kind}/step_s"] = statistics.median(seconds[kind])
        figures[f"training/{kind}/speedup"] = statistics.median(speedups)
        figures[f"training/{kind}/peak_gib"] = max(peaks[kind])
        figures[f"training/{kind}/memory_ratio"] = max(peaks[kind]) / max(peaks["full"])
    _print(figures, f"large, {depth} ViT blocks, {resolution} px, batch 1, {prompts} prompts, {threads} threads, CPU")
    return figures


def _measure(
    kind: str,
    resolution: int,
    prompts: int,
    depth: int,
    steps: int,
    threads: int,
    attention_dropout: bool,
    prompts_at_once: int,
) -> tuple[float, float]:
    """Seconds of the last of `steps` steps, and GiB of this process at its peak."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sizes = replace(
        ARCHITECTURES["large"],
        resolution=resolution,
        vit_depth=depth,
        global_blocks=tuple(range(7, depth, 8)),
    )
    model = assemble(sizes)
    loss = GroundingLoss(model.transformer.decoder.num_queries, LossOptions(), model.matcher)
    batch = one_picture(prompts, resolution)
    with ExitStack() as stack:
        if kind != "full":
            inject(model, HyperETConfig())
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention) and not attention_dropout:
                module.dropout = 0.0
        set_stage(model, 3 if kind == "full" else 1)
        if kind != "full":
            stack.enter_context(shared_encoding([model]))
        if kind.endswith("cached"):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(cached_trunk(model, CacheOptions(folder), 1, "32-true"))
            set_training_mode(model)
            model.backbone.forward_image(batch.img_batch)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
        for _ in range(steps):
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            if kind == "full":
                model.train()
                loss(model, batch)[TOTAL].backward()
            else:
                set_training_mode(model)
                for part in parts_of(batch, prompts_at_once):
                    loss(model, part, count_targets([batch]))[TOTAL].backward()
            optimizer.step()
            took = time.perf_counter() - start
    return took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _print(figures: dict[str, float], title: str) -> None:
    table = Table(title=title)
    for heading in ("", "a step", "faster than full", "peak memory", "of full"):
        table.add_column(heading, justify="left" if not heading else "right")
    for kind in KINDS:
        step, speedup, peak, ratio = (
            figures[f"training/{kind}/{key}"] for key in ("step_s", "speedup", "peak_gib", "memory_ratio")
        )
        table.add_row(kind, f"{step:.1f} s", f"{speedup:.2f} ×", f"{peak:.1f} GiB", f"{ratio:.0%}")
    Console().print(table)
