"""Images a second of the predictor against a plain loop of SAM 3's processor, with random weights, on the CPU."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from benchmarks import timing
from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.masks import encode_masks
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.copies import adapted_copy
from sam3_hyperet.scenes.dataset import scene

KNOWN = ("house", "car", "tree", "person", "dog", "sky")  # to the tiny model
WIDTH, HEIGHT = 640, 480
TOP = 100
COMPARED = 3  # prompts whose masks are compared
TIE = 1e-5  # of a probability from the threshold
PARTS = ("trunk", "neck", "text", "encoder", "decoder", "mask head", "masks at the image's size", "RLE", "rest")
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
    """Time one image of 640 x 480 in turn by the plain loop and by the predictor, and print tables.

    Both end with the scores and masks, at the image's size, of the best 100 queries of each prompt; no threshold. The
    encoding as RLE counts in the tables of parts alone. The predictor encodes the vocabulary in its first turn (of the
    tiny model, one that does not count), the plain loop in every one. `fast` decodes the masks of no prompt but
    `present`, by a `min_score` chosen for that. `together` runs the base and an adapted model (scheme A) of the same
    tensors; it is compared with each of them alone, and with the plain loop for each.

    Args:
        prompts: of `large`, and `tiny_prompts` of the tiny model.
        present: prompts that have a likely detection, for `fast`.
        turns: measurements of each kind on `large`; ratios are medians of those within a turn.
        side: of `large`'s input, a multiple of 336.

    Returns:
        `evaluation/<model>/<kind>/images_per_s`, `…/speedup` over the plain loop; `…/together/speedup_over_separate`;
        `…/score_difference` and `…/mask_iou`, the largest and the smallest between plain loop and predictor;
        `…/mask_ties`, the fraction of pixels whose probability is within 1e-5 of the threshold and which are therefore
        left out of the IoU; and seconds `…/<kind>/parts/<part>`.

    Raises:
        ConfigError: more `present` than `prompts`.
    """
    if present > prompts:
        raise ConfigError(f"benchmark evaluation: present={present}; expected at most prompts={prompts}")
    with timing.threads(threads):
        few = max(1, present * tiny_prompts // prompts)
        results = measure("tiny", build_model("tiny"), tiny_prompts, few, tiny_turns)
        results |= measure("large", build_model("large", checkpoint="random", resolution=side), prompts, present, turns)
    return results


def measure(name: str, base: host.Sam3Image, count: int, present: int, turns: int) -> dict[str, float]:
    """The results of `run` for one model and `count` prompts; the tiny model has one turn more, to warm up."""
    vocabulary = [*KNOWN, *(f"thing number {i}" for i in range(count))][:count]
    image = Image.fromarray(scene(0, "val", 1)[0]).resize((WIDTH, HEIGHT))
    adapted = adapted_copy(base, HyperETConfig())
    side = resolution(base)
    exact, fast, alone = (Predictor(model, vocabulary, side) for model in (base, base, adapted))
    both = [Predictor(model, vocabulary, side) for model in (base, adapted)]
    clocks: dict[str, Stopwatch] = {kind: Stopwatch(base) for kind in ("plain", "exact", "fast")}
    times: timing.Times = defaultdict(list)
    for turn in range(turns + (name == "tiny")):
        with clocks["plain"].running():
            plain = _plain_loop(base, vocabulary, image)
        with clocks["exact"].running():
            found = _predict(exact, image, clocks["exact"])
        best = sorted((float(scores[0]) for scores, _ in found), reverse=True)
        fast.min_score = (best[present - 1] + best[present]) / 2 if present < count else 0.0
        with clocks["fast"].running():
            _predict(fast, image, clocks["fast"])
        for kind, clock in clocks.items():
            times[kind].append(clock.total)
        times["adapted"].append(timing.seconds(lambda: _predict(alone, image)))
        times["together"].append(timing.seconds(lambda: _together(both, image)))
        if name == "tiny" and not turn:
            times.clear()
    results = {f"{kind}/images_per_s": 1 / statistics.median(times[kind]) for kind in (*clocks, "together")}
    for kind in ("exact", "fast"):
        results[f"{kind}/speedup"] = timing.ratio(times["plain"], times[kind])
    results["together/speedup"] = 2 * timing.ratio(times["plain"], times["together"])
    separate = [a + b for a, b in zip(times["exact"], times["adapted"], strict=True)]
    results["together/speedup_over_separate"] = timing.ratio(separate, times["together"])
    results["score_difference"] = max(float(np.abs(a[0] - b[0]).max()) for a, b in zip(plain, found, strict=True))
    results |= _mask_agreement(plain, exact, image)
    for kind, clock in clocks.items():
        results |= {f"{kind}/parts/{part}": value for part, value in clock.parts().items()}
    _print(results, f"{name}, {side} px, {count} prompts, {torch.get_num_threads()} threads, CPU")
    return {f"evaluation/{name}/{key}": value for key, value in results.items()}


def _plain_loop(model: host.Sam3Image, vocabulary: Sequence[str], image: Image.Image) -> Detections:
    processor = host.Sam3Processor(model, resolution=resolution(model), device="cpu", confidence_threshold=0.0)
    state = processor.set_image(image)
    found = []
    for prompt in vocabulary:
        state = processor.set_text_prompt(prompt, state)
        order = state["scores"].argsort(descending=True, stable=True)[:TOP]
        found.append((state["scores"][order].numpy(), _kept(state["masks"][order, 0].numpy(), found)))
    return found


def _predict(predictor: Predictor, image: Image.Image, clock: Stopwatch | None = None) -> Detections:
    clock = clock or Stopwatch(predictor.model)
    found: Detections = []
    for prediction in predictor.predict(image):
        best = prediction.top(TOP)
        if len(best.boxes):
            with clock.part("mask head"):
                best.mask_logits  # noqa: B018
        with clock.part("masks at the image's size"):
            masks = best.masks(HEIGHT, WIDTH)
        found.append((best.scores.numpy(), _kept(masks, found)))
        with clock.part("RLE", counts=False):
            if clock.is_running:
                encode_masks(masks)
    return found


def _together(predictors: Sequence[Predictor], image: Image.Image) -> None:
    with shared_encoding([predictor.model for predictor in predictors]):
        for predictor in predictors:
            _predict(predictor, image)


def _kept(masks: np.ndarray, before: Detections) -> np.ndarray:
    """The masks of the first prompts, for the comparison; of the others none, for the memory."""
    return masks if len(before) < COMPARED else np.zeros((0, HEIGHT, WIDTH), bool)


def _mask_agreement(plain: Detections, predictor: Predictor, image: Image.Image) -> dict[str, float]:
    """Least IoU of the masks of the first prompts, and the fraction of pixels left out of it.

    Pixels near the threshold are left out: with random weights a mask may consist of them. Queries of one score may
    come in any order, so a mask is compared with the most similar one of its score.
    """
    ious, ties = [], []
    for (scores, masks), prediction in zip(plain[:COMPARED], predictor.predict(image), strict=False):
        best = prediction.top(TOP)
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
    """Seconds of a call and of its parts: of modules by hooks, of the rest by `part`."""

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


def _print(results: dict[str, float], title: str) -> None:
    kinds = ("plain", "exact", "fast")
    rows = [[part, *(f"{results[f'{kind}/parts/{part}']:.3f} s" for kind in kinds)] for part in PARTS]
    rows.append(["images a second", *(f"{results[f'{kind}/images_per_s']:.4g}" for kind in kinds)])
    rows.append(["over the plain loop", "", *(f"{results[f'{kind}/speedup']:.2f} x" for kind in kinds[1:])])
    timing.print_table(title, ("", *kinds), rows)
    Console().print(
        f"base and adapted together: {results['together/speedup']:.2f} x the plain loop for each, "
        f"{results['together/speedup_over_separate']:.2f} x the predictor for each alone; "
        f"scores differ by {results['score_difference']:.1e} at most, masks' IoU is {results['mask_iou']:.6f} at least "
        f"({results['mask_ties']:.1e} of the pixels are ties)"
    )
