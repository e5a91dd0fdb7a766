"""Masks and label maps drawn on images, in colours as safe for the colour-blind as a dozen hues can be."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import Rle, decode

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
Color = tuple[int, int, int]

UNMATCHED = -1  # a colour number: the grey of a mask that belongs to nothing
IGNORED = 255
SIDE = 288  # pixels of the longer side of a report's images

_HUES = [  # the first seven are Okabe and Ito's
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442"),
    *("#8c510a", "#999933", "#117733", "#332288", "#aa3377", "#c2e699", "#6a51a3"),
]
_GREY, _DARK, _WHITE, _BLACK = ((level,) * 3 for level in (214, 64, 255, 0))
_HATCH = ((92, 92, 92), (128, 128, 128))
_OPACITY = 0.5  # of a mask's tint
_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in lightness
_GOLDEN_ANGLE = 137.508  # degrees: successive hues never come close


@dataclass(frozen=True)
class Detection:
    """A predicted mask, bool (H, W), and its score in [0, 1]."""

    mask: np.ndarray
    score: float


@dataclass(frozen=True)
class Example:
    """One prompt on an image (H, W, 3) uint8; masks bool (H, W). No `truth`: the concept is not there."""

    image: Pixels
    prompt: str
    granularity: str
    truth: tuple[np.ndarray, ...]
    base: tuple[Detection, ...]
    adapted: tuple[Detection, ...]
    caption: str = ""


@dataclass(frozen=True)
class SemanticExample:
    """Integer label maps (H, W) of one image; 255 is ignored in `truth`, unassigned in the others."""

    image: Pixels
    truth: np.ndarray
    base: np.ndarray
    adapted: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """One cell of a row of images: its address is a `data:` URI; `note` stands below it."""

    title: str
    address: str
    note: str = ""


@lru_cache(maxsize=8)
def palette(count: int) -> Pixels:
    """RGB (count, 3): fourteen chosen colours, then generated ones of alternating lightness."""
    k = np.arange(max(1, count - len(_HUES)))
    lightness, chroma = np.choose(k % 3, [58, 76, 40]), np.choose(k % 2, [42, 28])
    angle = np.deg2rad(20 + _GOLDEN_ANGLE * k)
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)
    rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_LAB2RGB)[0]
    chosen = np.array([list(bytes.fromhex(hue[1:])) for hue in _HUES], dtype=np.uint8)
    result: Pixels = np.concatenate([chosen, np.rint(rgb * 255).astype(np.uint8)])[:count]
    result.flags.writeable = False
    return result


def overlay(
    image: Pixels, masks: Sequence[np.ndarray | Rle], labels: Sequence[str] = (), *, colors: Sequence[int] = ()
) -> Pixels:
    """The image with tinted, outlined masks, and a label in each where there are any.

    image: (H, W, 3) uint8; left as it is, a copy is returned.
    masks: bool (H, W), or COCO run lengths, each; an empty one draws nothing. The smaller of two lies on top.
    labels: one a mask, or none; "" leaves that one out.
    colors: a number into `palette` for each mask, or `UNMATCHED`; by default 0, 1, 2, ….
    Raises DataError for arrays that do not fit.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"image is {image.dtype} {image.shape}, expected uint8 (height, width, 3)")
    for name, values in (("labels", labels), ("colors", colors)):
        if values and len(values) != len(masks):
            raise DataError(f"{len(values)} {name} for {len(masks)} masks")
    for number, mask in enumerate(masks):
        size = tuple(mask["size"] if isinstance(mask, dict) else mask.shape)
        if size != image.shape[:2]:
            raise DataError(f"mask {number} is {size}, its image {image.shape[:2]} (height, width)")
    hues = [_color(number) for number in (colors or range(len(masks)))]
    regions = [_region(mask) for mask in masks]
    order = sorted(range(len(masks)), key=lambda i: -int(regions[i].mask.sum()))
    tinted = image.astype(np.float32)
    for i in order:
        part, mask = tinted[regions[i].where], regions[i].mask
        part[mask] = (1 - _OPACITY) * part[mask] + _OPACITY * np.array(hues[i], np.float32)
    result = np.ascontiguousarray(np.rint(tinted, out=tinted).astype(np.uint8))
    width = max(1, round(min(image.shape[:2]) / 180))
    for i in order:
        region = regions[i]
        outline, _ = cv2.findContours(
            region.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(region.left, region.top)
        )
        for color, thickness in ((_DARK if hues[i] == _GREY else _WHITE, width + 2), (hues[i], width)):
            cv2.drawContours(result, outline, -1, color, thickness, cv2.LINE_AA)
    labelled = [(regions[i], labels[i], hues[i]) for i in order if labels and labels[i] and regions[i].mask.size]
    return _write_labels(result, labelled) if labelled else result


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


def enlarge(array: np.ndarray, side: int, *, crisp: bool = False) -> np.ndarray:
    """An image, mask or label map resized so that its longer side is `side`, masks along smooth outlines.

    crisp: copy the nearest pixel rather than interpolate; label maps must.
    """
    height, width = array.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if crisp:
        y, x = (np.arange(new) * old // new for new, old in zip(size[::-1], (height, width), strict=True))
        return np.asarray(array[y[:, None], x])
    if array.dtype == bool:
        linear = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(array.astype(np.float32), size, interpolation=linear) > 0.5)
    return cv2.resize(array, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LANCZOS4)


def data_uri(image: Pixels, *, lossless: bool = False) -> str:
    """An image (H, W, 3) as a `data:` address: PNG where `lossless`, else WebP."""
    buffer, drawn, kind = io.BytesIO(), Image.fromarray(image), "png" if lossless else "webp"
    if lossless:
        drawn.quantize(256, dither=Image.Dither.NONE).save(buffer, kind, optimize=True)
    else:
        drawn.save(buffer, kind, quality=86, method=5)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


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
    """Image, ground truth, base and adapted; a detection has the colour of the truth that it matches."""
    size = example.image.shape[:2]
    for mask in (*example.truth, *(detection.mask for detection in (*example.base, *example.adapted))):
        if mask.shape != size:
            raise DataError(f"prompt {example.prompt!r}: a mask is {mask.shape}, its image {size} (height, width)")
    image = enlarge(example.image, SIDE)
    truth = [enlarge(np.asarray(mask, dtype=bool), SIDE) for mask in example.truth]
    truth_panel = Panel("Ground truth", data_uri(overlay(image, truth)), "" if truth else "not in this image")
    panels = [Panel("Image", data_uri(image)), truth_panel]
    for title, detections in (("Base", example.base), ("Adapted", example.adapted)):
        shown = sorted((d for d in detections if d.score >= score_threshold), key=lambda d: -d.score)
        masks = [enlarge(np.asarray(d.mask, dtype=bool), SIDE) for d in shown]
        colors = match(truth, masks)
        # What matches goes on top; of what does not, only the best is labelled, or labels would hide the image.
        order = sorted(range(len(shown)), key=lambda k: (colors[k] != UNMATCHED, -k))
        labelled = [k for k, color in enumerate(colors) if color != UNMATCHED or UNMATCHED not in colors[:k]]
        labels = [f"{shown[k].score:.2f}" if k in labelled else "" for k in order]
        drawn = overlay(image, [masks[k] for k in order], labels, colors=[colors[k] for k in order])
        panels.append(Panel(title, data_uri(drawn), "" if shown else f"nothing above {score_threshold:g}"))
    return panels


def semantic_panels(example: SemanticExample) -> tuple[list[Panel], list[tuple[str, str]]]:
    """Image and three label maps; and (name, CSS colour) of every class in them, "" that of no class."""
    panels = [Panel("Image", data_uri(enlarge(example.image, SIDE)))]
    seen: set[int] = set()
    for title, labels in (("Ground truth", example.truth), ("Base", example.base), ("Adapted", example.adapted)):
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


def _color(number: int) -> Color:
    red, green, blue = _GREY if number == UNMATCHED else palette(len(_HUES))[number % len(_HUES)].tolist()
    return red, green, blue


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", size)


@dataclass(frozen=True)
class _Region:
    """A mask without the empty rows and columns around it: of a large image's many masks, that is what fits."""

    left: int
    top: int
    mask: np.ndarray

    @property
    def where(self) -> tuple[slice, slice]:
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def _region(mask: np.ndarray | Rle) -> _Region:
    binary = decode(mask).astype(bool) if isinstance(mask, dict) else np.asarray(mask, dtype=bool)
    rows, columns = np.flatnonzero(binary.any(axis=1)), np.flatnonzero(binary.any(axis=0))
    if not len(rows):
        return _Region(0, 0, np.zeros((0, 0), bool))
    part = binary[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _Region(int(columns[0]), int(rows[0]), part.copy())


def _write_labels(image: Pixels, entries: Sequence[tuple[_Region, str, Color]]) -> Pixels:
    """Each label on a chip of its mask's colour, in or beside the mask and off the other labels."""
    drawn = Image.fromarray(image)
    draw, font = ImageDraw.Draw(drawn), _font(max(10, round(min(image.shape[:2]) / 20)))
    taken: list[Box] = []
    covered = np.zeros(image.shape[:2], bool)
    for region, _, _ in entries:
        covered[region.where] |= region.mask
    for region, label, color in entries:
        left, top, right, bottom = font.getbbox(label)
        pad = max(2, round(font.size / 5))
        width, height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
        box = _place(region, width, height, covered, taken)
        taken.append(box)
        ink = _BLACK if np.dot(color, _LUMA) > 140 else _WHITE
        draw.rounded_rectangle(box, radius=pad, fill=color, outline=ink)
        draw.text((box[0] + pad - left, box[1] + pad - top), label, fill=ink, font=font)
    return np.array(drawn, dtype=np.uint8)


def _place(region: _Region, width: int, height: int, covered: np.ndarray, taken: Sequence[Box]) -> Box:
    """A box for a label: at a large mask's deepest point, else beside the mask, where it hides the least."""
    mask, left, top = region.mask, region.left, region.top
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    middle_y, middle_x = np.unravel_index(int(depth.argmax()), depth.shape)
    bottom, right = top + mask.shape[0] - 1, left + mask.shape[1] - 1
    x, y = left + int(middle_x) - width // 2, top + int(middle_y) - height // 2
    small = mask.sum() < 8 * width * height
    starts = [] if small else [(x, y), (x, y - height - 1), (x, y + height + 1)]
    starts += [(x, top - height - 4), (x, bottom + 4), (right + 4, y), (left - width - 4, y)]
    starts += [(left, top - height - 4), (right - width, bottom + 4), (x, y)]
    most_x, most_y = max(0, covered.shape[1] - width - 1), max(0, covered.shape[0] - height - 1)
    inside = [(min(max(x, 0), most_x), min(max(y, 0), most_y)) for x, y in starts]
    boxes = [(x, y, x + width, y + height) for x, y in inside]

    def hidden(box: Box) -> int:
        labels = 4 * sum(_shared(box, other) for other in taken)
        return labels + (int(covered[box[1] : box[3], box[0] : box[2]].sum()) if small else 0)

    return min(boxes, key=hidden)


def _shared(a: Box, b: Box) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0]) + 1) * max(0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
