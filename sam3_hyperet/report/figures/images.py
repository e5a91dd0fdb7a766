"""Examples in a report: detections and label maps, drawn on images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import Rle, iou
from sam3_hyperet.overlays.addresses import data_uri
from sam3_hyperet.overlays.colors import UNMATCHED, Pixels, palette
from sam3_hyperet.overlays.overlay import Instance, draw_overlay
from sam3_hyperet.overlays.resizing import enlarge
from sam3_hyperet.report.tables import starting

IGNORED = 255
FAINTEST = 0.05  # score of a detection that is worth dashes
SIDE = 288  # pixels of the longer side of a report's images

_HATCH = ((92, 92, 92), (128, 128, 128))


@dataclass(frozen=True)
class Detection:
    """A predicted mask and its score in [0, 1]."""

    mask: Rle
    score: float


@dataclass(frozen=True)
class Example:
    """One prompt on an image (H, W, 3) uint8, and masks of it. No `truth`: the concept is not there.

    detections: by model, the base first.
    """

    image: Pixels
    prompt: str
    granularity: str
    truth: tuple[Rle, ...]
    detections: Mapping[str, tuple[Detection, ...]]
    caption: str = ""


@dataclass(frozen=True)
class SemanticExample:
    """Integer label maps (H, W) of one image; 255 is ignored in `truth`, unassigned in those of the models."""

    image: Pixels
    truth: np.ndarray
    predicted: Mapping[str, np.ndarray]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """One cell of a row of images: its address is a `data:` URI; `note` stands below it."""

    title: str
    address: str
    note: str = ""


def colour_label_map(labels: np.ndarray, names: Sequence[str]) -> Pixels:
    """A label map (H, W) of integers in colour, (H, W, 3); 255 and negative values are hatched grey.

    Raises DataError for a map that is not one, and for a value that is neither a class of `names` nor 255.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise DataError(f"label map is {labels.dtype} {labels.shape}, expected integers (height, width)")
    values = labels.astype(np.int64)
    nothing = (values == IGNORED) | (values < 0)
    if (wrong := values[~nothing & (values >= len(names))]).size:
        raise DataError(f"label map has the value {wrong[0]}, expected 0 to {len(names) - 1} or {IGNORED}")
    y, x = np.indices(labels.shape)
    hatch = np.array(_HATCH, dtype=np.uint8)[(x + y) // 4 % 2]
    return np.where(nothing[..., None], hatch, palette(len(names) or 1)[np.where(nothing, 0, values)])


def match(truth: Sequence[Rle], masks: Sequence[Rle], least: float = 0.5) -> list[int]:
    """The truth that each mask, best first, overlaps most, by an IoU of `least` or more; else `UNMATCHED`."""
    free, result = list(range(len(truth))), []
    for overlaps in iou(masks, truth):
        result.append(max((i for i in free if overlaps[i] >= least), key=overlaps.__getitem__, default=UNMATCHED))
        free = [i for i in free if i != result[-1]]
    return result


def instance_panels(example: Example, score_threshold: float) -> list[Panel]:
    """Image, ground truth, and a panel a model; a detection has the colour of the truth that it matches.

    Where none reaches the threshold, the best one below it is a dashed outline.
    """
    size = example.image.shape[:2]
    of_models = [detection.mask for found in example.detections.values() for detection in found]
    for mask in (*example.truth, *of_models):
        if tuple(mask["size"]) != size:
            found = tuple(mask["size"])
            raise DataError(f"prompt {example.prompt!r}: a mask is {found}, its image {size} (height, width)")
    truth = [Instance(mask, k) for k, mask in enumerate(example.truth)]
    panels = [
        Panel("Image", _drawn(example, [])),
        Panel("Ground truth", _drawn(example, truth), "" if truth else "not in this image"),
    ]
    for name, detections in example.detections.items():
        best_first = sorted(detections, key=lambda d: -d.score)
        shown = [detection for detection in best_first if detection.score >= score_threshold]
        instances, note = _matched(example.truth, shown), "" if shown else f"nothing from {score_threshold:g} up"
        if best_first and not shown and best_first[0].score >= FAINTEST:
            instances = [Instance(best_first[0].mask, UNMATCHED, dashed=True)]
            note += f"; dashed: {best_first[0].score:.2f}"
        panels.append(Panel(_title(name), _drawn(example, instances), note))
    return panels


def _matched(truth: Sequence[Rle], shown: Sequence[Detection]) -> list[Instance]:
    """Detections, best first, in the colours of what they match; of the others only the best is labelled.

    More labels would hide the image.
    """
    colors = match(truth, [one.mask for one in shown])
    labelled = [k for k, color in enumerate(colors) if color != UNMATCHED or UNMATCHED not in colors[:k]]
    labels = [(f"{one.score:.2f}",) if k in labelled else () for k, one in enumerate(shown)]
    found = zip(shown, colors, labels, strict=True)
    return [Instance(one.mask, color, of_mask) for one, color, of_mask in found]


def _drawn(example: Example, instances: Sequence[Instance]) -> str:
    return data_uri(draw_overlay(example.image, instances, side=SIDE).pixels)


def _title(name: str) -> str:
    """A panel's title."""
    return name.capitalize() if name == "ground truth" else starting(name)


def semantic_panels(example: SemanticExample) -> tuple[list[Panel], list[tuple[str, str]]]:
    """Image and three label maps; and (name, CSS colour) of every class in them, "" that of no class."""
    panels = [Panel("Image", data_uri(enlarge(example.image, SIDE)))]
    seen: set[int] = set()
    for name, labels in {"ground truth": example.truth, **example.predicted}.items():
        title = _title(name)
        if labels.shape != example.image.shape[:2]:
            raise DataError(f"{title}: label map is {labels.shape}, its image {example.image.shape[:2]}")
        nothing = (labels == IGNORED) | (labels < 0)
        fraction = f"{100 * nothing.mean():.0f} % {'unlabelled' if title == 'Ground truth' else 'unassigned'}"
        drawn = colour_label_map(enlarge(labels, SIDE, crisp=True), example.names)
        panels.append(Panel(title, data_uri(drawn, lossless=True), fraction if nothing.any() else ""))
        seen |= set(np.unique(np.where(nothing, IGNORED, labels)).tolist())
    colors = palette(len(example.names) or 1)
    legend = [(example.names[c], "#" + colors[c].tobytes().hex()) for c in sorted(seen - {IGNORED})]
    return panels, legend + [("", "")] * (IGNORED in seen)
