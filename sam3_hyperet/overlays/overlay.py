"""Masks and exemplar boxes drawn on an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import Rle
from sam3_hyperet.overlays.colors import BLACK, UNMATCHED, WHITE, Color, Pixels, color, edge
from sam3_hyperet.overlays.labels import Label, font, largest_font, write_labels
from sam3_hyperet.overlays.resizing import Region, enlarge

_OPACITY = 0.5  # of a mask's tint


@dataclass(frozen=True)
class Instance:
    """A mask to draw.

    mask: bool (H, W), or COCO run lengths. color: a number into `palette`, or `UNMATCHED`. labels: texts, of which the
    first one that finds a place is written. dashed: a dashed outline without a tint, for what lies below a threshold.
    """

    mask: np.ndarray | Rle
    color: int
    labels: Sequence[str] = ()
    dashed: bool = False


@dataclass(frozen=True)
class ExemplarBox:
    """A box [x, y, width, height] in pixels of the image that a prompt was given; dashed where it is a negative one."""

    box: Sequence[float]
    color: int
    positive: bool = True


@dataclass(frozen=True)
class Overlay:
    """An image (H, W, 3) uint8 with all that is drawn on it. unlabelled: masks whose label would have hidden others."""

    pixels: Pixels
    unlabelled: int = 0


def draw_overlay(
    image: Pixels, instances: Sequence[Instance], boxes: Sequence[ExemplarBox] = (), *, side: int | None = None
) -> Overlay:
    """The image with tinted, outlined masks, labels where they hide little, and the boxes of exemplars.

    image: (H, W, 3) uint8; left as it is. side: of the longer side of what is drawn, None for that of the image.
    instances: those of a colour best first: each colour's best are labelled before its others. An empty mask draws
        nothing. The smaller of two masks lies on top, and what matches lies on what does not.
    Raises DataError for arrays that do not fit.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(f"image is {image.dtype} {image.shape}, expected uint8 (height, width, 3)")
    for number, one in enumerate(instances):
        size = tuple(one.mask["size"] if isinstance(one.mask, dict) else one.mask.shape)
        if size != image.shape[:2]:
            raise DataError(f"mask {number} is {size}, its image {image.shape[:2]} (height, width)")
    side = side or max(image.shape[:2])
    scale = side / max(image.shape[:2])
    shown = enlarge(image, side)
    regions = [Region.of(one.mask).resized(image.shape[:2], shown.shape[:2]) for one in instances]
    colors = [color(one.color) for one in instances]
    areas = [int(region.mask.sum()) for region in regions]
    order = sorted(range(len(instances)), key=lambda i: (instances[i].color != UNMATCHED, -areas[i]))
    pixels, owner = _tint(shown, regions, colors, [i for i in order if not instances[i].dashed])
    thickest = max(1, round(min(pixels.shape[:2]) / 180))
    for i in sorted(order, key=lambda i: instances[i].color == UNMATCHED):  # or a duplicate could not be seen
        width, dashed = min(thickest, max(1, round(areas[i] ** 0.5 / 30))), instances[i].dashed
        _outline(pixels, regions[i], colors[i], width + dashed, dashed=dashed)  # thicker, for there is no tint
    for box in boxes:
        _draw_box(pixels, box, scale, thickest)
    labels = [Label(i, instances[i].labels, colors[i]) for i in _by_rank(instances) if areas[i] and instances[i].labels]
    return Overlay(pixels, write_labels(pixels, regions, owner, labels) if labels else 0)


def overlay(
    image: Pixels, masks: Sequence[np.ndarray | Rle], labels: Sequence[str] = (), *, colors: Sequence[int] = ()
) -> Pixels:
    """The pixels of `draw_overlay` of masks.

    labels: one a mask, or none; "" leaves that one out. colors: one a mask; by default 0, 1, 2, ….
    Raises DataError for arrays that do not fit.
    """
    for name, values in (("labels", labels), ("colors", colors)):
        if values and len(values) != len(masks):
            raise DataError(f"{len(values)} {name} for {len(masks)} masks")
    texts = [(label,) if label else () for label in labels] or [()] * len(masks)
    parts = zip(masks, colors or range(len(masks)), texts, strict=True)
    return draw_overlay(image, [Instance(*one) for one in parts]).pixels


def _by_rank(instances: Sequence[Instance]) -> list[int]:
    """The first of each colour, then the second of each, and so on; what matches nothing last."""
    seen: dict[int, int] = {}
    ranks = []
    for one in instances:
        ranks.append((one.color == UNMATCHED, seen.setdefault(one.color, 0)))
        seen[one.color] += 1
    return sorted(range(len(instances)), key=ranks.__getitem__)


def _tint(
    image: Pixels, regions: Sequence[Region], colors: Sequence[Color], order: Sequence[int]
) -> tuple[Pixels, np.ndarray]:
    """A copy of the image under tints, and (H, W) the position of the region on top at each pixel, -1 for none.

    A pixel is tinted by the region on top alone: however many lie on each other, half of the image shows through.
    """
    owner = np.full(image.shape[:2], -1, np.int32)
    for i in order:
        owner[regions[i].where][regions[i].mask] = i
    shades = np.array([*colors, (0, 0, 0)], np.uint8)[owner]  # -1 is the last
    blended = cv2.addWeighted(image, 1 - _OPACITY, shades, _OPACITY, 0)
    return np.where((owner < 0)[..., None], image, blended), owner


def _outline(pixels: Pixels, region: Region, shade: Color, width: int, *, dashed: bool) -> None:
    """The border of a mask in its colour, within a thin one that sets it off from the image."""
    mask, offset = region.mask.astype(np.uint8), (region.left, region.top)
    found, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=offset)
    if dashed:
        lines = [dash for contour in found for dash in _dashes(contour[:, 0], 3 * width + 1)]
    for of, thickness in ((edge(shade), width + 2), (shade, width)):
        if dashed:
            cv2.polylines(pixels, lines, False, of, thickness, cv2.LINE_AA)
        else:
            cv2.drawContours(pixels, found, -1, of, thickness, cv2.LINE_AA)


def _dashes(points: np.ndarray, length: int) -> list[np.ndarray]:
    """Every other stretch of so many points of a line."""
    return [points[start : start + length] for start in range(0, len(points), 2 * length)]


def _draw_box(pixels: Pixels, box: ExemplarBox, scale: float, width: int) -> None:
    """A black and white frame with its mark, + or −, in the colour of the prompt."""
    x, y, w, h = (value * scale for value in box.box)
    height, breadth = pixels.shape[:2]
    left, right = (min(max(round(at), 0), breadth - 1) for at in (x, x + w))
    top, bottom = (min(max(round(at), 0), height - 1) for at in (y, y + h))
    columns, rows = np.arange(left, right + 1), np.arange(top, bottom + 1)
    frame = np.concatenate(
        [
            np.stack([columns, np.full_like(columns, top)], 1),
            np.stack([np.full_like(rows, right), rows], 1),
            np.stack([columns, np.full_like(columns, bottom)], 1)[::-1],
            np.stack([np.full_like(rows, left), rows], 1)[::-1],
        ]
    ).astype(np.int32)
    lines, shade = ([frame] if box.positive else _dashes(frame, 6 * width + 4)), color(box.color)
    for of, thickness in ((BLACK, width + 4), (WHITE, width + 2), (shade, width)):
        cv2.polylines(pixels, lines, False, of, thickness)
    drawn, size = Image.fromarray(pixels), max(13, largest_font(height, breadth))
    draw, mark = ImageDraw.Draw(drawn), "+" if box.positive else "\u2212"
    chip = min(left, max(0, breadth - size - 1)), min(top, max(0, height - size - 1))
    draw.rectangle((*chip, chip[0] + size, chip[1] + size), fill=WHITE, outline=BLACK)
    draw.text((chip[0] + size / 2, chip[1] + size / 2), mark, fill=BLACK, font=font(size), anchor="mm")
    pixels[:] = np.asarray(drawn)
