"""Images, masks and label maps at the size at which they are drawn."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from sam3_hyperet.choices import SMALLEST_OVERLAY
from sam3_hyperet.masks import Rle, decode_within_box, within_box


@dataclass(frozen=True)
class Region:
    """A mask without the empty rows and columns around it: of a large image's many masks, that is what fits."""

    left: int
    top: int
    mask: np.ndarray

    @property
    def where(self) -> tuple[slice, slice]:
        """Rows and columns of the image."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    @classmethod
    def of(cls, mask: np.ndarray | Rle) -> "Region":
        """That of a mask, bool (H, W) or COCO run lengths; an empty one has no rows."""
        if isinstance(mask, dict):
            return cls(*decode_within_box(mask))
        left, top, part = within_box(np.asarray(mask, dtype=bool))
        return cls(left, top, part.copy())  # the whole mask may go

    def resized(self, size: tuple[int, int], to: tuple[int, int]) -> "Region":
        """The region of an image (height, width) where that is drawn at the size `to`; one with pixels keeps some."""
        if size == to or not self.mask.size:
            return self
        (top, bottom, y, y_end), (left, right, x, x_end) = (
            _span(first, first + count, old, new)
            for first, count, old, new in zip((self.top, self.left), self.mask.shape, size, to, strict=True)
        )
        around = np.zeros((bottom - top, right - left), bool)
        around[self.top - top :, self.left - left :][: self.mask.shape[0], : self.mask.shape[1]] = self.mask
        found = Region.of(_resize_mask(around, (x_end - x, y_end - y)))
        return Region(found.left + x, found.top + y, found.mask)


def drawn_side(height: int, width: int, most: int = 0) -> int:
    """The longer side at which an image is drawn: its own, `SMALLEST_OVERLAY` at least, `most` at most, 0 for any."""
    longer = max(height, width, SMALLEST_OVERLAY)
    return min(longer, max(most, SMALLEST_OVERLAY)) if most else longer


def size_at(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of an image whose longer side is made `side`."""
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def enlarge(array: np.ndarray, side: int, *, crisp: bool = False) -> np.ndarray:
    """An image, mask or label map resized so that its longer side is `side`, masks along smooth outlines.

    crisp: copy the nearest pixel rather than interpolate; label maps must. A mask that has pixels keeps one or more.
    """
    height, width = array.shape[:2]
    size = size_at(height, width, side)[::-1]
    if size == (width, height):
        return array
    if crisp:
        y, x = (np.arange(new) * old // new for new, old in zip(size[::-1], (height, width), strict=True))
        return np.asarray(array[y[:, None], x])
    if array.dtype == bool:
        return _resize_mask(array, size)
    return cv2.resize(array, size, interpolation=cv2.INTER_AREA if size[0] < width else cv2.INTER_LANCZOS4)


def _resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask, bool (H, W), at (width, height), along smooth outlines."""
    linear = cv2.INTER_AREA if size[0] < mask.shape[1] else cv2.INTER_LINEAR
    levels = cv2.resize(mask.astype(np.uint8) * np.uint8(255), size, interpolation=linear)
    result = np.asarray(levels > 127)
    if not result.any() and levels.any():
        result.flat[levels.argmax()] = True
    return result


def _span(first: int, last: int, old: int, new: int) -> tuple[int, int, int, int]:
    """A stretch of `old` pixels around that from `first` to before `last`, and where it lies among `new` pixels.

    It is off by half a pixel of the finer of the two grids at most.
    """
    scale = new / old
    if scale > 1:
        first, last = max(0, first - 1), min(old, last + 1)
        return first, last, round(first * scale), round(last * scale)
    start, stop = math.floor(first * scale), min(new, math.ceil(last * scale))
    return min(first, round(start / scale)), max(last, min(old, round(stop / scale))), start, max(stop, start + 1)
