"""Pictures a second of the predictor against a plain loop of SAM 3's processor, with random weights, on the CPU."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.data.scenes.dataset import scene
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.masks import encode_masks
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.copies import adapted_copy

KNOWN = ("house", "car", "tree", "person", "dog", "sky")  # to the tiny model
WIDTH, HEIGHT = 640, 480
TOP = 100
COMPARED = 3  # prompts whose masks are compared
TIE = 1e-5  # of a probability from the threshold
PARTS = ("trunk", "neck", "text", "encoder", "decoder", "mask head", "masks at the picture's size", "RLE", "rest")
Detections = list[tuple[np.ndarray, np.ndarray]]


def run(
    prompts: int = 20,
    present: int = 3,
    turns: int = 1,
    side: int = 1008,
    tiny_prompts: int = 80,
    tiny_turns: int = 5,
    threads: int = 2,
) -> dict[str, float]:
    """Time one picture of 640 x 480 in turn by the plain loop and by the predictor, and print tables.

    Both end with the scores and masks, at the picture's size, of the best 100 queries of each prompt; no threshold. The
    encoding as RLE counts in the tables of parts alone. The predictor encodes the vocabulary in its first turn (of the
    tiny model, one that does not count), the plain loop in every one. `fast` decodes the masks of no prompt but
    `present`, by a `min_score` chosen for that. `together` asks the base and an adapted model (scheme A) of the same
    tensors; it is compared with asking each alone, and with the plain loop for each.

    Args:
        prompts: of `large`, and `tiny_prompts` of the tiny model.
        present: prompts that have a likely detection, for `fast`.
        turns: measurements of each kind on `large`; ratios are medians of those within a turn.
        side: of `large`'s input, a multiple of 336.

    Returns:
        `evaluation/<model>/<kind>/images_per_s`, `…/speedup` over the plain loop; `…/together/speedup_over_separate`;
        `…/score_difference` and `…/mask_iou`, the largest and the smallest between plain loop and predictor;
        `…/mask_ties`, the share of pixels whose probability is within 1e-5 of the threshold and which are therefore
        left out of the IoU; and seconds `…/<kind>/parts/<part>`.

    Raises:
        ConfigError: more `present` than `prompts`.
    """
    if present > prompts:
        raise ConfigError(f"benchmark evaluation: present={present}; expected at most prompts={prompts}")
    before, cv2_before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        figures = measure(
            "tiny", build_model("tiny"), tiny_prompts, max(1, present * tiny_prompts // prompts), tiny_turns
        )
        figures |= measure("large", build_model("large", resolution=side), prompts, present, turns)
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(cv2_before)
    return figures


def measure(name: str, base: host.Sam3Image, count: int, present: int, turns: int) -> dict[str, float]:
    """The figures of `run` for one model and `count` prompts; the tiny model has one turn more, to warm up."""
    vocabulary = [*KNOWN, *(f"thing number {i}" for i in range(count))][:count]
    picture = Image.fromarray(scene(0, "val", 1)[0]).resize((WIDTH, HEIGHT))
    adapted = adapted_copy(base, HyperETConfig())
    side = resolution(base)
    ours, fast, its = (Predictor(model, vocabulary, side) for model in (base, base, adapted))
    both = [Predictor(model, vocabulary, side) for model in (base, adapted)]
    clocks: dict[str, Stopwatch] = {kind: Stopwatch(base) for kind in ("plain", "exact", "fast")}
    seconds: dict[str, list[float]] = defaultdict(list)
    for turn in range(turns + (name == "tiny")):
        with clocks["plain"].running():
            plain = _plain_loop(base, vocabulary, picture)
        with clocks["exact"].running():
            exact = _ask(ours, picture, clocks["exact"])
        best = sorted((float(scores[0]) for scores, _ in exact), reverse=True)
        fast.min_score = (best[present - 1] + best[present]) / 2 if present < count else 0.0
        with clocks["fast"].running():
            _ask(fast, picture, clocks["fast"])
        for kind, clock in clocks.items():
            seconds[kind].append(clock.total)
        seconds["adapted"].append(_timed(lambda: _ask(its, picture)))
        seconds["together"].append(_timed(lambda: _together(both, picture)))
        if name == "tiny" and not turn:
            seconds.clear()
    figures = {f"{kind}/images_per_s": 1 / statistics.median(seconds[kind]) for kind in clocks}
    for kind in ("exact", "fast"):
        figures[f"{kind}/speedup"] = _ratio(seconds["plain"], seconds[kind])
    figures["together/images_per_s"] = 1 / statistics.median(seconds["together"])
    figures["together/speedup"] = 2 * _ratio(seconds["plain"], seconds["together"])
    alone = [a + b for a, b in zip(seconds["exact"], seconds["adapted"], strict=True)]
    figures["together/speedup_over_separate"] = _ratio(alone, seconds["together"])
    figures["score_difference"] = max(float(np.abs(a[0] - b[0]).max()) for a, b in zip(plain, exact, strict=True))
    figures |= _mask_figures(plain, ours, picture)
    for kind, clock in clocks.items():
        figures |= {f"{kind}/parts/{part}": value for part, value in clock.parts().items()}
    title = f"{name}, {side} px, {count} prompts, {torch.get_num_threads()} threads, CPU"
    _print(figures, title)
    return {f"evaluation/{name}/{key}": value for key, value in figures.items()}


def _plain_loop(model: host.Sam3Image, vocabulary: Sequence[str], picture: Image.Image) -> Detections:
    processor = host.Sam3Processor(model, resolution=resolution(model), device="cpu", confidence_threshold=0.0)
    state = processor.set_image(picture)
    found = []
    for prompt in vocabulary:
        state = processor.set_text_prompt(prompt, state)
        order = state["scores"].argsort(descending=True, stable=True)[:TOP]
        found.append((state["scores"][order].numpy(), _kept(state["masks"][order, 0].numpy(), found)))
    return found


def _ask(predictor: Predictor, picture: Image.Image, clock: Stopwatch | None = None) -> Detections:
    clock = clock or Stopwatch(predictor.model)
    found: Detections = []
    for answer in predictor.predict(picture):
        best = answer.top(TOP)
        if len(best.boxes):
            with clock.part("mask head"):
                best.mask_logits  # noqa: B018
        with clock.part("masks at the picture's size"):
            masks = best.masks(HEIGHT, WIDTH)
        found.append((best.scores.numpy(), _kept(masks, found)))
        with clock.part("RLE", counts=False):
            if clock.is_running:
                encode_masks(masks)
    return found


def _together(predictors: Sequence[Predictor], picture: Image.Image) -> None:
    with shared_encoding([predictor.model for predictor in predictors]):
        for predictor in predictors:
            _ask(predictor, picture)


def _kept(masks: np.ndarray, before: Detections) -> np.ndarray:
    """The masks of the first prompts, for the comparison; of the others none, for the memory."""
    return masks if len(before) < COMPARED else np.zeros((0, HEIGHT, WIDTH), bool)


def _mask_figures(plain: Detections, predictor: Predictor, picture: Image.Image) -> dict[str, float]:
    """The least IoU of the first prompts' masks, and the share of pixels so near the threshold that they are no part
    of it: with random weights a mask may consist of such pixels. Queries of one score may come in any order, so a mask
    is compared with the most similar one of its score."""
    ious, ties = [], []
    for (scores, masks), answer in zip(plain[:COMPARED], predictor.predict(picture), strict=False):
        best = answer.top(TOP)
        certain = ((best.mask_probabilities(HEIGHT, WIDTH) - 0.5).abs() > TIE).flatten(1).float()
        ours = certain * torch.from_numpy(best.masks(HEIGHT, WIDTH)).flatten(1)
        theirs = torch.from_numpy(masks).flatten(1).float().T
        both = ours @ theirs
        iou = both / (ours.sum(dim=1, keepdim=True) + certain @ theirs - both).clamp(min=1)
        is_one = (best.scores[:, None] - torch.from_numpy(scores)).abs() <= TIE
        ious.append(float((iou * is_one).amax(dim=1).min()))
        ties.append(1 - float(certain.mean()))
    return {"mask_iou": min(ious), "mask_ties": sum(ties) / len(ties)}


class Stopwatch:
    """Seconds of a call and of its parts: of modules by hooks, of the rest where it is said."""

    def __init__(self, model: nn.Module) -> None:
        neck = model.backbone.vision_backbone
        self._modules = {
            "trunk": [neck.trunk],
            "neck": list(neck.convs),
            "text": [model.backbone.language_backbone],
            "encoder": [model.transformer.encoder],
            "decoder": [model.transformer.decoder],
            "mask head": [model.segmentation_head],
        }
        self.is_running = False
        self.total = 0.0
        self._seconds: list[dict[str, float]] = []
        self._apart = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what is done within, with the hooks in place."""
        self._seconds.append(defaultdict(float))
        self._apart = 0.0
        handles = [
            h for part, modules in self._modules.items() for module in modules for h in self._hooks(part, module)
        ]
        self.is_running = True
        started = time.perf_counter()
        try:
            yield
        finally:
            self.total = time.perf_counter() - started - self._apart
            self.is_running = False
            for handle in handles:
                handle.remove()
        self._seconds[-1]["rest"] = self.total + self._seconds[-1]["RLE"] - sum(self._seconds[-1].values())

    @contextmanager
    def part(self, name: str, counts: bool = True) -> Iterator[None]:
        """Add what is done within to a part; and to the total only if it counts."""
        started = time.perf_counter()
        yield
        took = time.perf_counter() - started
        if self.is_running:
            self._seconds[-1][name] += took
            self._apart += 0.0 if counts else took

    def parts(self) -> dict[str, float]:
        """Medians over the calls, in seconds."""
        return {part: statistics.median(one[part] for one in self._seconds) for part in PARTS}

    def _hooks(self, part: str, module: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        def start(*_: object) -> None:
            self._started = time.perf_counter()

        def stop(*_: object) -> None:
            self._seconds[-1][part] += time.perf_counter() - self._started

        return [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _ratio(slow: Sequence[float], quick: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, quick, strict=True))


def _print(figures: dict[str, float], title: str) -> None:
    kinds = ("plain", "exact", "fast")
    table = Table("", *kinds, title=title)
    for part in PARTS:
        table.add_row(part, *(f"{figures[f'{kind}/parts/{part}']:.3f} s" for kind in kinds))
    table.add_section()
    table.add_row("pictures a second", *(f"{figures[f'{kind}/images_per_s']:.4g}" for kind in kinds))
    table.add_row("over the plain loop", "", *(f"{figures[f'{kind}/speedup']:.2f} x" for kind in kinds[1:]))
    console = Console()
    console.print(table)
    console.print(
        f"base and adapted together: {figures['together/speedup']:.2f} x the plain loop for each, "
        f"{figures['together/speedup_over_separate']:.2f} x asking each alone; "
        f"scores differ by {figures['score_difference']:.1e} at most, masks' IoU is {figures['mask_iou']:.6f} at least "
        f"({figures['mask_ties']:.1e} of the pixels are ties)"
    )
