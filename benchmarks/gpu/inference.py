"""Sections without gradients: identity, merging, moving between devices, and evaluation by precision."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from benchmarks.gpu.bench import Bench, Figures, difference, ground, perturb, tf32
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.compilation import compiled_regions
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.copies import adapted_copy
from sam3_hyperet.modeling.inject import adapters_disabled, inject
from sam3_hyperet.modeling.merge import merge
from sam3_hyperet.scenes.dataset import scene

SCHEMES = {
    "A": HyperETConfig(scheme="A"),
    "B+prompt": HyperETConfig(sites=("encoder_layer", "prompt")),
    "C": HyperETConfig(scheme="C"),
    "P": HyperETConfig(scheme="P"),
    "A+B": HyperETConfig(scheme="A+B"),
    "behind the encoder": HyperETConfig(sites=("encoder_out", "pixel_decoder")),
}
PRECISIONS = ("fp32", "tf32", "bf16")
TEXTS = ["house", "car", "tree", "person", "dog", "sky"]
WIDTH, HEIGHT = 640, 480
BEST = 20  # queries of a prompt whose masks are compared


def identity(bench: Bench) -> Figures:
    """Largest difference of SAM 3's outputs, adapters on against off, before any training: 0 is exact.

    `…/forward_ratio` is the time of the whole forward pass, on over off.
    """
    figures: Figures = {}
    image = bench.batch(1).img_batch
    for name in bench.items(SCHEMES):
        model = adapted_copy(bench.base, SCHEMES[name]).eval()
        for precision in ("fp32", "bf16"):
            with bench.precision(precision):
                on = ground(model, image, TEXTS[:2])
                ms = bench.milliseconds(lambda m=model: ground(m, image, TEXTS[:2]), bench.repeats // 4, 1)
                with adapters_disabled(model):
                    off = ground(model, image, TEXTS[:2])
                    base_ms = bench.milliseconds(lambda m=model: ground(m, image, TEXTS[:2]), bench.repeats // 4, 1)
            figures[f"{name}/{precision}/difference"] = difference(on, off)
            figures[f"{name}/{precision}/forward_ratio"] = ms / base_ms
            figures["base/" + precision + "/forward_ms"] = base_ms
    return figures


def merging(bench: Bench) -> Figures:
    """Largest difference of an adapted model's outputs to those of its merged weights, beside its effect on them."""
    figures: Figures = {}
    image = bench.batch(1).img_batch
    for name, config in (("P", SCHEMES["P"]), ("A, euclidean", HyperETConfig(geometry="euclidean"))):
        for _ in bench.items([name]):
            with bench.precision("fp32"):
                off = ground(bench.base, image, TEXTS[:2])
                model = inject(copy.deepcopy(bench.base), config)
                perturb(model, 0.002)
                model.eval()
                on = ground(model, image, TEXTS[:2])
                merged = ground(merge(model), image, TEXTS[:2])
            figures[f"{name}/difference"] = difference(on, merged)
            figures[f"{name}/effect"] = difference(on, off)
            del model
    return figures


def moving(bench: Bench) -> Figures:
    """Largest difference of the tiny model's outputs after it ran on the CPU, moved to the card, ran, and came back."""
    model = inject(build_model("tiny"), SCHEMES["A+B"])
    side = resolution(model)
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with bench.precision("fp32"):
        before = ground(model, image, TEXTS)
        model.to(bench.device)
        there = ground(model, image.to(bench.device), TEXTS)
        model.cpu()
        back = ground(model, image, TEXTS)
        fresh = inject(build_model("tiny").to(bench.device), SCHEMES["A+B"])
        never_moved = ground(fresh.to(bench.device), image.to(bench.device), TEXTS)
    return {
        "cpu_to_card": difference(before, there),
        "back_on_cpu": difference(before, back),
        "card_alone": difference(there, never_moved),
    }


def evaluation(bench: Bench) -> Figures:
    """Seconds an image of the predictor by precision, and what the precision does to scores and masks.

    Times are of one image of 640 × 480: `encode` (trunk and neck), `score` (all prompts, no masks) and `masks` (the
    best 100 queries of each prompt, enlarged, on the host). Differences are to fp32, query by query; masks are those of
    the best 20 queries at the model's own resolution. `default` is PyTorch's setting: TF32 in convolutions alone.
    """
    figures: Figures = {}
    image = Image.fromarray(scene(0, "val", 1)[0]).resize((WIDTH, HEIGHT))
    prompts = [*TEXTS, *(f"thing number {i}" for i in range(14))]
    models = {bench.architecture: bench.base, "tiny": build_model("tiny").to(bench.device)}
    for name, model in models.items():
        exact: list[_Answer] = []
        for precision in bench.items(PRECISIONS):
            mixed = "bf16-mixed" if precision == "bf16" else "32-true"
            predictor = Predictor(model, prompts, resolution(model), precision=mixed)
            key = f"{name}/{precision}"
            with tf32({"fp32": False, "tf32": True}.get(precision)):
                figures[f"{key}/text_s"] = bench.seconds(lambda p=predictor: p.text)
                figures[f"{key}/encode_s"] = bench.timed(lambda p=predictor: p.encode(image))
                figures[f"{key}/score_s"] = bench.timed(lambda p=predictor: list(p.predict(image)))
                figures[f"{key}/masks_s"] = bench.timed(lambda p=predictor: _masks(p, image), warm_up=1)
                figures[f"{key}/peak_gib"] = bench.peak_gib(lambda p=predictor: _masks(p, image))
                if not exact:
                    exact = list(_answers(predictor, image, None))
                figures |= {f"{key}/{what}": value for what, value in _compare(predictor, image, exact).items()}
        if f"{name}/bf16/masks_s" in figures:
            for precision in PRECISIONS[1:]:
                for part in ("encode", "score", "masks"):
                    ratio = figures[f"{name}/fp32/{part}_s"] / figures[f"{name}/{precision}/{part}_s"]  # type: ignore[operator]
                    figures[f"{name}/{precision}/{part}_speedup"] = ratio
    return figures


def compiled_evaluation(bench: Bench) -> Figures:
    """Seconds an image of the predictor in bf16 with `model.compile`, over the same without it; 20 prompts.

    `…/first_s` is the first image, compilation included; differences are to the predictor that is not compiled.
    """
    if not bench.compiles:
        return {}
    image = Image.fromarray(scene(0, "val", 1)[0]).resize((WIDTH, HEIGHT))
    prompts = [*TEXTS, *(f"thing number {i}" for i in range(14))]
    predictor = Predictor(bench.base.eval(), prompts, resolution(bench.base), precision="bf16-mixed")

    def seconds() -> dict[str, float]:
        calls = {"score": lambda: list(predictor.predict(image)), "masks": lambda: _masks(predictor, image)}
        return {name: bench.timed(call, warm_up=1) for name, call in calls.items()}

    plain, exact = seconds(), list(_answers(predictor, image, None))
    torch._dynamo.reset()
    figures: Figures = {f"{name}/plain_s": value for name, value in plain.items()}
    bench.base.compiles = True
    try:
        with compiled_regions([bench.base]):
            figures["first_s"] = bench.seconds(lambda: _masks(predictor, image))
            figures |= {f"{name}/compiled_ratio": value / plain[name] for name, value in seconds().items()}
            figures |= _compare(predictor, image, exact)
    finally:
        bench.base.compiles = False
    return figures


@dataclass(frozen=True)
class _Answer:
    """The predictor's output for one prompt: (Q,) scores, (Q, 4) boxes, presence, and (n, h, w) masks of `best`."""

    scores: Tensor
    boxes: Tensor
    presence: float
    best: Tensor
    masks: Tensor


def _answers(predictor: Predictor, image: Image.Image, best: Sequence[Tensor] | None) -> Iterator[_Answer]:
    for k, found in enumerate(predictor.predict(image)):
        chosen = found.query_scores.argsort(descending=True)[:BEST] if best is None else best[k]
        masks = found.keep(chosen).mask_logits > 0
        yield _Answer(found.scores.float(), found.boxes.float(), found.presence, chosen, masks)


def _compare(predictor: Predictor, image: Image.Image, exact: Sequence[_Answer]) -> dict[str, float]:
    gaps, ious, boxes, presences, order = [], [], [], [], []
    for one, other in zip(exact, _answers(predictor, image, [a.best for a in exact]), strict=True):
        gaps.append((one.scores - other.scores).abs())
        boxes.append((one.boxes - other.boxes)[one.best].abs() * predictor.resolution)
        presences.append(abs(one.presence - other.presence))
        both, either = (one.masks & other.masks).sum((1, 2)), (one.masks | other.masks).sum((1, 2))
        ious.append(torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both, dtype=torch.float32)))
        order.append(float(one.scores.argmax() == other.scores.argmax()))
    gap, iou, box = torch.cat(gaps), torch.cat(ious), torch.cat(boxes)
    return {
        "score_difference_mean": float(gap.mean()),
        "score_difference_max": float(gap.max()),
        "presence_difference_max": max(presences),
        "same_best_query": statistics.mean(order),
        "box_difference_px_mean": float(box.mean()),
        "box_difference_px_max": float(box.max()),
        "mask_iou_mean": float(iou.mean()),
        "mask_iou_min": float(iou.min()),
    }


def _masks(predictor: Predictor, image: Image.Image) -> None:
    for found in predictor.predict(image):
        found.top(100).masks(HEIGHT, WIDTH)
