"""Sections on training steps of one image: by scheme, prompts and precision, with the cache, and of everything."""

from __future__ import annotations

import json
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from benchmarks.gpu.bench import GIB, Bench, Figures
from benchmarks.gpu.inference import SCHEMES
from sam3_hyperet import sam3_host as host
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss, count_targets
from sam3_hyperet.modeling.compilation import compiled_regions
from sam3_hyperet.modeling.copies import adapted_copy
from sam3_hyperet.modeling.modes import set_training_mode
from sam3_hyperet.training.batches import parts_of
from sam3_hyperet.training.feature_cache import cached_trunk
from sam3_hyperet.training.options import CacheOptions
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import set_stage
from sam3_hyperet.training.text_features import text_features_once


@dataclass(frozen=True)
class Case:
    """A kind of step: scheme "everything" trains all parameters, with SAM 3's activation checkpointing."""

    scheme: str = "A"
    prompts: int = 4
    precision: str = "bf16"
    at_once: int = 0
    checkpointing: bool = False
    cached: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        extras = {
            f", {self.at_once} at once": self.at_once,
            ", checkpointing": self.checkpointing,
            ", cached": self.cached,
            ", compiled": self.compiled,
        }
        return f"{self.scheme}, prompts={self.prompts}, {self.precision}" + "".join(k for k, v in extras.items() if v)


A = Case()
STAGE_1 = (
    A,
    replace(A, prompts=1),
    replace(A, prompts=8),
    replace(A, cached=True),
    replace(A, at_once=1),
    replace(A, checkpointing=True),
    Case("P"),
    Case("P", 1),
    Case("B+prompt"),
    Case("B+prompt", 1),
    Case("A+B"),
    Case("C"),
    replace(A, precision="bf16+tf32"),
    replace(A, precision="tf32"),
    replace(A, precision="fp32"),
    Case("P", 4, checkpointing=True),
    Case("B+prompt", 8),
    Case("P", 8),
)
EVERYTHING = (Case("everything"), Case("everything", 1), Case("everything", 4, "tf32"))


def steps(bench: Bench) -> Figures:
    """Seconds and peak memory of a stage-1 step of one image, the optimizer's part included.

    `…/over_A` is its time over that of scheme A with as many prompts, in the same precision.
    """
    figures: Figures = {"weights_gib": sum(p.nbytes for p in bench.base.parameters()) / GIB}
    for case in bench.items(STAGE_1):
        with _step(bench, case) as step:
            _measure(bench, case, step, figures)
    return figures


def compiled_steps(bench: Bench) -> Figures:
    """Steps with `model.compile`, after the same without it; `…/first_s` is the first one, compilation included.

    The second number of prompts is compiled once more, the third is not.
    """
    if not bench.compiles:
        return {}
    figures: Figures = {}
    torch._dynamo.reset()
    for case in bench.items([A, replace(A, compiled=True), *(replace(A, prompts=n, compiled=True) for n in (8, 6))]):
        with _step(bench, case) as step:
            if case.compiled:
                figures[f"{case}/first_s"] = bench.seconds(step)
            _measure(bench, case, step, figures)
    return figures


def everything(bench: Bench) -> Figures:
    """Seconds and peak memory of a step that trains every parameter: it changes the base's weights."""
    figures: Figures = {}
    for case in bench.items(EVERYTHING):
        with _step(bench, case) as step:
            _measure(bench, case, step, figures)
    return figures


def parts(bench: Bench) -> Figures:
    """Milliseconds of the parts of a step, bf16, 4 prompts; those of modules and matching are part of `forward`."""
    figures: Figures = {}
    for case in bench.items((A, Case("P"))):
        for name, ms in _parts(bench, case).items():
            figures[f"{case.scheme}/{name}_ms"] = ms
    return figures


def synchronisations(bench: Bench) -> Figures:
    """How often a step of scheme A makes the host wait for the card, by place in the source."""
    if not bench.is_cuda:
        return {}
    figures: Figures = {}
    with _step(bench, A) as step:
        step()
        places: Counter[str] = Counter()

        def note(message: object, category: object, filename: str, lineno: int, *_: object) -> None:
            if "synchronizing" in str(message):
                frames = [f for f in traceback.extract_stack() if "/sam3" in f.filename or "fabric" in f.filename]
                where = frames[-1] if frames else None
                file, line = (where.filename, where.lineno) if where else (filename, lineno)
                places["/".join(Path(file).parts[-3:]) + f":{line}"] += 1

        shown = warnings.showwarning
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
                warnings.showwarning = shown
    figures["a_step"] = sum(places.values())
    figures |= {f"at {place}": count for place, count in places.most_common(40)}
    return figures


def _measure(bench: Bench, case: Case, step: Callable[[], object], figures: Figures) -> None:
    figures[f"{case}/peak_gib"] = bench.peak_gib(step)  # the first step: the optimizer's state is made in it
    figures[f"{case}/step_s"] = seconds = bench.timed(step)
    if case == Case(prompts=case.prompts, precision=case.precision):
        bench.reference_s[case.prompts, case.precision] = seconds
    elif reference := bench.reference_s.get((case.prompts, case.precision)):
        figures[f"{case}/over_A"] = seconds / reference
    figures[f"{case}/steady_peak_gib"] = peak = bench.peak_gib(step)
    if peak and (forecast := _forecasts().get(str(case))):
        figures |= {f"{case}/forecast_gib": forecast, f"{case}/forecast_over_peak": forecast / peak}


@cache
def _forecasts() -> dict[str, float]:
    """Forecast peaks, made beforehand: time on a card is scarce (`benchmark memory update=true`)."""
    forecasts: dict[str, float] = json.loads((Path(__file__).parent / "forecasts.json").read_text(encoding="utf-8"))
    return forecasts


@contextmanager
def _step(bench: Bench, case: Case) -> Iterator[Callable[[], dict[str, torch.Tensor]]]:
    """A function that makes one optimizer step of the case."""
    with ExitStack() as stack:
        model, loss, optimizer = _training(bench, case)
        batch = bench.batch(case.prompts)
        if case.scheme != "everything":
            model.compiles = case.compiled
            stack.enter_context(compiled_regions([model]))
            stack.enter_context(shared_work(model))
            stack.enter_context(text_features_once(model))
        if case.at_once:
            stack.enter_context(shared_encoding([model]))
        if case.cached:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(cached_trunk(model, CacheOptions(folder), 1, case.precision))
        batches = list(parts_of(batch, case.at_once)) if case.at_once else [batch]
        counts = count_targets([batch])

        def step() -> dict[str, torch.Tensor]:
            optimizer.zero_grad(set_to_none=True)
            _set_mode(model, case)
            for one in batches:
                with bench.precision(case.precision):
                    terms = loss(model, one, model(one), counts)
                terms[TOTAL].backward()
            optimizer.step()
            return terms

        yield step
        model.eval()


def _training(bench: Bench, case: Case) -> tuple[host.Sam3Image, GroundingLoss, torch.optim.Optimizer]:
    if case.scheme == "everything":
        model = bench.base
        set_stage(model, 3)
    else:
        model = adapted_copy(bench.base, SCHEMES[case.scheme])
        set_stage(model, 1)
    loss = GroundingLoss(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    return model, loss, optimizer


def _set_mode(model: host.Sam3Image, case: Case) -> None:
    if case.scheme == "everything":
        model.train()
    else:
        set_training_mode(model, checkpoint_activations=case.checkpointing)


def _parts(bench: Bench, case: Case) -> dict[str, float]:
    model, loss, optimizer = _training(bench, case)
    batch = bench.batch(case.prompts)
    neck = model.backbone.vision_backbone
    modules: dict[str, list[nn.Module]] = {
        "trunk": [neck.trunk],
        "neck": list(neck.convs),
        "text": [model.backbone.language_backbone],
        "encoder": [model.transformer.encoder],
        "decoder": [model.transformer.decoder],
        "mask_head": [model.segmentation_head],
        "matcher": [model.matcher],
    }
    spent: Counter[str] = Counter()
    entered: list[float] = []
    handles = []
    for name, of_part in modules.items():
        for module in of_part:
            handles.append(module.register_forward_pre_hook(lambda *_: entered.append(bench.clock())))
            handles.append(
                module.register_forward_hook(lambda *_, name=name: spent.update({name: bench.clock() - entered.pop()}))
            )
    runs, warm_up = max(1, bench.repeats // 4), 2 if bench.is_cuda else 0
    try:
        for run in range(runs + warm_up):
            if run == warm_up:
                spent.clear()
            optimizer.zero_grad(set_to_none=True)
            _set_mode(model, case)
            start = bench.clock()
            with bench.precision(case.precision):
                output = model(batch)
                forward = bench.clock()
                terms = loss(model, batch, output)
            losses = bench.clock()
            terms[TOTAL].backward()
            backward = bench.clock()
            optimizer.step()
            end = bench.clock()
            spent.update({"forward": forward - start, "losses": losses - forward, "backward": backward - losses})
            spent.update({"optimizer": end - backward, "step": end - start})
    finally:
        for handle in handles:
            handle.remove()
        model.eval()
    return {name: 1e3 * seconds / runs for name, seconds in spent.items()}
