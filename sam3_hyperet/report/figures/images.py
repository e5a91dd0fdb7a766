"""Examples in a report: detections and label maps, drawn on images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sam3_hyperet.errors import DataError
from sam3_hyperet.overlays.addresses import data_uri
from sam3_hyperet.overlays.colors import UNMATCHED, Pixels, palette
from sam3_hyperet.overlays.overlay import overlay
from sam3_hyperet.overlays.resizing import enlarge
from sam3_hyperet.report.figures.dashes import with_dashes
from sam3_hyperet.report.tables import starting

IGNORED = 255
FAINTEST = 0.05  # score of a detection that is worth dashes
SIDE = 288  # pixels of the longer side of a report's images

_HATCH = ((92, 92, 92), (128, 128, 128))


@dataclass(frozen=True)
class Detection:
    """A predicted mask, bool (H, W), and its score in [0, 1]."""

    mask: np.ndarray
    score: float


@dataclass(frozen=True)
class Example:
    """One prompt on an image (H, W, 3) uint8; masks bool (H, W). No `truth`: the concept is not there.

    detections: by model, the base first.
    """

    image: Pixels
    prompt: str
    granularity: str
    truth: tuple[np.ndarray, ...]
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


def match(truth: Sequence[np.ndarray], masks: Sequence[np.ndarray], iou: float = 0.5) -> list[int]:
    """The truth that each mask, best first, overlaps most, by `iou` or more; else `UNMATCHED`."""
    free = dict(enumerate(truth))
    result = []
    for mask in masks:
        overlaps = {i: (mask & other).sum() / max(1, (mask | other).sum()) for i, other in free.items()}
        enough = (i for i, overlap in overlaps.items() if overlap >= iou)
        result.append(max(enough, key=overlaps.__getitem__, default=UNMATCHED))
        free.pop(result[-1], None)
    return result


def instance_panels(example: Example, score_threshold: float) -> list[Panel]:
    """Image, ground truth, and a panel a model; a detection has the colour of the truth that it matches.

    Where none reaches the threshold, the best one below it is a dashed outline.
    """
    size = example.image.shape[:2]
    of_models = [detection.mask for found in example.detections.values() for detection in found]
    for mask in (*example.truth, *of_models):
        if mask.shape != size:
            raise DataError(f"prompt {example.prompt!r}: a mask is {mask.shape}, its image {size} (height, width)")
    image = enlarge(example.image, SIDE)
    truth = [enlarge(np.asarray(mask, dtype=bool), SIDE) for mask in example.truth]
    truth_panel = Panel("Ground truth", data_uri(overlay(image, truth)), "" if truth else "not in this image")
    panels = [Panel("Image", data_uri(image)), truth_panel]
    for name, detections in example.detections.items():
        best_first = sorted(detections, key=lambda d: -d.score)
        shown = [detection for detection in best_first if detection.score >= score_threshold]
        masks = [enlarge(np.asarray(d.mask, dtype=bool), SIDE) for d in shown]
        colors = match(example.truth, [d.mask for d in shown])  # enlarged masks may cross the threshold
        # Of what matches nothing, only the best is labelled, or labels would hide the image.
        labelled = [k for k, color in enumerate(colors) if color != UNMATCHED or UNMATCHED not in colors[:k]]
        labels = [f"{one.score:.2f}" if k in labelled else "" for k, one in enumerate(shown)]
        drawn = overlay(image, masks, labels, colors=colors)
        note = "" if shown else f"nothing from {score_threshold:g} up"
        if best_first and not shown and best_first[0].score >= FAINTEST:
            drawn = with_dashes(drawn, enlarge(np.asarray(best_first[0].mask, dtype=bool), SIDE))
            note += f"; dashed: {best_first[0].score:.2f}"
        panels.append(Panel(_title(name), data_uri(drawn), note))
    return panels


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
