"""Labels of masks: each on a chip of its mask's colour, where it hides neither another label nor much of any mask."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sam3_hyperet.overlays.colors import Color, Pixels, ink
from sam3_hyperet.overlays.resizing import Region

Box = tuple[int, int, int, int]
SMALLEST_FONT = 11  # pixels
_HIDDEN = 0.25  # most of what is seen of any mask that labels may hide
_COVERED = 0.2  # most of an image that all its labels together may cover


@dataclass(frozen=True)
class Label:
    """Texts of the mask at `position` among the regions: the first one for which there is a place is written."""

    position: int
    texts: Sequence[str]
    color: Color


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """The typeface of labels and legends, at so many pixels."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", size)


def largest_font(height: int, width: int) -> int:
    """Pixels of the largest label's font on an image: the same part of a large one as of a small one."""
    return max(SMALLEST_FONT, round(math.sqrt(height * width) / 52))


def write_labels(image: Pixels, regions: Sequence[Region], owner: np.ndarray, labels: Sequence[Label]) -> int:
    """Write labels onto an image, the first ones first; returns how many found no place.

    owner: (H, W) integers, the position of the region on top at each pixel, -1 for none.
    """
    drawn = Image.fromarray(image)
    draw, places = ImageDraw.Draw(drawn), _Places(regions, owner)
    left_out = 0
    for label in labels:
        region, largest = regions[label.position], largest_font(*image.shape[:2])
        # a label grows with its mask, up to the size that is legible where the whole image is seen
        size = int(np.clip(region.mask.sum() ** 0.5 / 5, max(SMALLEST_FONT, largest // 2), largest))
        for text in label.texts:
            left, top, right, bottom = font(size).getbbox(text)
            pad = max(2, round(size / 5))
            width, height = round(right - left) + 2 * pad, round(bottom - top) + 2 * pad
            if box := places.take(label.position, width, height):
                shade = ink(label.color)
                draw.rounded_rectangle(box, radius=pad, fill=label.color, outline=shade)
                draw.text((box[0] + pad - left, box[1] + pad - top), text, fill=shade, font=font(size))
                break
        else:
            left_out += 1
    image[:] = np.asarray(drawn)
    return left_out


class _Places:
    """Places for labels on an image, and what those that are taken hide of each mask."""

    def __init__(self, regions: Sequence[Region], owner: np.ndarray) -> None:
        self._regions, self._owner = regions, owner
        self._free = np.ones(owner.shape, bool)
        self._budget = _HIDDEN * np.bincount(owner.ravel() + 1, minlength=len(regions) + 1)[1:]
        self._uncovered = _COVERED * owner.size

    def take(self, position: int, width: int, height: int) -> Box | None:
        """The place for a label of so many pixels that hides the least; None where there is none."""
        found: list[tuple[float, Box, np.ndarray]] = []
        for box in self._candidates(position, width, height):
            where = slice(box[1], box[3] + 1), slice(box[0], box[2] + 1)
            if not self._free[where].all():
                continue
            hidden = np.bincount(self._owner[where].ravel() + 1, minlength=len(self._regions) + 1)[1:]
            if (hidden <= self._budget).all():
                others = hidden.sum() - hidden[position]
                found.append((float(others), box, hidden))
        if not found or (width + 1) * (height + 1) > self._uncovered:
            return None
        _, box, hidden = min(found, key=lambda one: one[0])
        self._free[max(0, box[1] - 1) : box[3] + 2, max(0, box[0] - 1) : box[2] + 2] = False
        self._budget = self._budget - hidden
        self._uncovered -= (width + 1) * (height + 1)
        return box

    def _candidates(self, position: int, width: int, height: int) -> Iterator[Box]:
        """Boxes within the image: at a mask's deepest point first, then around the mask."""
        region = self._regions[position]
        mask, left, top = region.mask, region.left, region.top
        depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
        middle_y, middle_x = np.unravel_index(int(depth.argmax()), depth.shape)
        bottom, right = top + mask.shape[0] - 1, left + mask.shape[1] - 1
        x, y = left + int(middle_x) - width // 2, top + int(middle_y) - height // 2
        starts = [(x, y), (x, y - height - 1), (x, y + height + 1)]
        starts += [(x, top - height - 4), (x, bottom + 4), (right + 4, y), (left - width - 4, y)]
        starts += [(left, top - height - 4), (right - width, top - height - 4), (right - width, bottom + 4)]
        most_x, most_y = self._owner.shape[1] - width - 1, self._owner.shape[0] - height - 1
        if most_x < 0 or most_y < 0:
            return
        for start_x, start_y in starts:
            x, y = min(max(start_x, 0), most_x), min(max(start_y, 0), most_y)
            yield x, y, x + width, y + height
