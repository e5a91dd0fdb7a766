"""Overlays side by side in one picture, each below its heading, with a legend beneath all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sam3_hyperet.overlays.colors import BLACK, WHITE, Pixels, color
from sam3_hyperet.overlays.labels import Box, font, largest_font

_GREY_INK = (89, 97, 107)
_SMALLEST_FONT = 13  # pixels; of a legend
_CUT = "…"


@dataclass(frozen=True)
class Panel:
    """An image (H, W, 3) uint8 and what stands above it, "" for nothing."""

    pixels: Pixels
    heading: str = ""


@dataclass(frozen=True)
class Entry:
    """A line of a legend: a number into `palette`, or None for a remark, and its text."""

    color: int | None
    text: str


@dataclass(frozen=True)
class Composition:
    """A picture (H, W, 3) uint8, and left, top, right and bottom of each panel in it."""

    pixels: Pixels
    panels: tuple[Box, ...]


def compose(panels: Sequence[Panel], legend: Sequence[Entry] = ()) -> Composition:
    """Panels of one size in a row, wide ones below each other, with headings and a legend on white.

    What of a text is wider than the picture is cut, and ends in an ellipsis.
    """
    height, width = panels[0].pixels.shape[:2]
    size = max(_SMALLEST_FONT, largest_font(height, width))
    typeface, gap = font(size), max(6, size // 2)
    line = round(size * 1.6)
    above = line if any(panel.heading for panel in panels) else 0
    columns = 1 if width > 1.6 * height else len(panels)
    rows = -(-len(panels) // columns)
    total_width = columns * width + (columns - 1) * gap
    boxes = []
    for k in range(len(panels)):
        left, top = k % columns * (width + gap), k // columns * (above + height + gap) + above
        boxes.append((left, top, left + width, top + height))
    below = rows * (above + height) + (rows - 1) * gap
    lines = _wrapped(legend, typeface, total_width - 2 * gap, gap, size)
    total_height = below + (len(lines) * line + gap if lines else 0)
    canvas = Image.new("RGB", (total_width, total_height), WHITE)
    draw = ImageDraw.Draw(canvas)
    for panel, (left, top, right, _) in zip(panels, boxes, strict=True):
        canvas.paste(Image.fromarray(panel.pixels), (left, top))
        heading = _shortened(panel.heading, typeface, right - left - 2)
        draw.text((left + 2, top - above / 2), heading, fill=BLACK, font=typeface, anchor="lm")
    for number, of_line in enumerate(lines):
        middle = below + gap // 2 + (number + 0.5) * line
        for x, entry in of_line:
            if entry.color is None:
                draw.text((x, middle), entry.text, fill=_GREY_INK, font=typeface, anchor="lm")
            else:
                swatch = (x, middle - size / 2, x + size, middle + size / 2)
                draw.rectangle(swatch, fill=color(entry.color), outline=BLACK)
                draw.text((x + size + gap, middle), entry.text, fill=BLACK, font=typeface, anchor="lm")
    return Composition(np.asarray(canvas), tuple(boxes))


def _wrapped(
    legend: Sequence[Entry], typeface: ImageFont.FreeTypeFont, width: int, gap: int, size: int
) -> list[list[tuple[int, Entry]]]:
    """Lines of a legend: entries, each at its distance from the left border."""
    lines: list[list[tuple[int, Entry]]] = []
    used = width
    for entry in legend:
        mark = 0 if entry.color is None else size + gap
        entry = Entry(entry.color, _shortened(entry.text, typeface, width - mark))
        needed = mark + round(typeface.getlength(entry.text))
        if not lines or used + needed > width:
            lines.append([])
            used = 0
        lines[-1].append((gap + used, entry))
        used += needed + 3 * gap
    return lines


def _shortened(text: str, typeface: ImageFont.FreeTypeFont, width: float) -> str:
    if typeface.getlength(text) <= width:
        return text
    while text and typeface.getlength(text + _CUT) > width:
        text = text[:-1]
    return text.rstrip() + _CUT
