"""Masks as a view of an image shows them at the model's size: each resized within its box, and kept as a window."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from sam3_hyperet.data.transforms import View
from sam3_hyperet.masks import Rle, decode_within_box, within_box

Window = tuple[int, int, np.ndarray]
"""The first row and the first column of a part of a mask, and the part (h, w), bool; the rest of the mask is empty."""
_EMPTY = (0, 0, np.zeros((0, 0), bool))
_LARGE = 8  # a mask whose box is more than one such part of the view is resized with all of it, which is then quicker
_NEAR_HALF = 1e-4  # of a pixel of the model's size: far more than what OpenCV's sums in fp32 are off
_SLIVERS = 1000  # OpenCV leaves out of a pixel of the model what this part of one of the view at most adds to it


@dataclass(frozen=True)
class Masks:
    """N regions as a view shows them at the model's size; boxes are from the masks at the image's size."""

    pixels: np.ndarray  # (N,) how many of the image's pixels are within the view
    boxes: torch.Tensor  # (N, 4) normalised centre x, centre y, width, height; 0 where empty
    windows: Sequence[Window]
    resolution: int

    @property
    def areas(self) -> np.ndarray:
        """(N,) pixels of each at the model's size."""
        return np.asarray([np.count_nonzero(part) for _, _, part in self.windows], np.int64)

    def union(self, which: Iterable[int]) -> torch.Tensor:
        """What any of some regions covers, (resolution, resolution) bool."""
        found = np.zeros((self.resolution, self.resolution), bool)
        for n in which:
            top, left, part = self.windows[n]
            found[top : top + part.shape[0], left : left + part.shape[1]] |= part
        return torch.from_numpy(found)


def masks_in_view(rles: Sequence[Rle], resolution: int, view: View) -> Masks:
    """Decode masks and bring them to the model's size: a pixel belongs to a mask that covers at least half of it.

    As if OpenCV had resized the whole view of each, to the bit.
    """
    pixels = np.zeros(len(rles), np.int64)
    boxes = np.zeros((len(rles), 4))
    windows = []
    for n, rle in enumerate(rles):
        top, left, part = _in_view(rle, view)
        pixels[n] = np.count_nonzero(part)
        if pixels[n]:
            height, width = part.shape
            boxes[n] = left + width / 2, top + height / 2, width, height
            windows.append(_resized(part, (top, left), (view.height, view.width), resolution))
        else:
            windows.append(_EMPTY)
    boxes /= (view.width, view.height, view.width, view.height)
    return Masks(pixels, torch.from_numpy(boxes).float(), windows, resolution)


def _in_view(rle: Rle, view: View) -> Window:
    """The part of a mask that a view shows, within its box there, in pixels of the view."""
    left, top, mask = decode_within_box(rle)
    rows = slice(max(view.top - top, 0), max(view.top + view.height - top, 0))
    columns = slice(max(view.left - left, 0), max(view.left + view.width - left, 0))
    part, top, left = mask[rows, columns], max(top - view.top, 0), max(left - view.left, 0)
    if view.flip:
        part, left = part[:, ::-1], view.width - left - part.shape[1]
    return _cropped(top, left, part)


def _cropped(top: int, left: int, part: np.ndarray) -> Window:
    """The same within the box around what is set; of nothing, without rows and columns."""
    x, y, inner = within_box(part)
    return top + y, left + x, inner.copy()  # the whole may go


def _resized(part: np.ndarray, place: tuple[int, int], size: tuple[int, int], resolution: int) -> Window:
    """A part of a mask of this size, at its first row and column, as it is in the whole at the model's size."""
    found = None
    if resolution <= min(size):
        found = _by_periods(part, place, size, resolution)
        if found is None and part.size * _LARGE <= size[0] * size[1]:
            found = _by_area(part, place, size, resolution)
    return _of_the_whole(part, place, size, resolution) if found is None else found


def _of_the_whole(part: np.ndarray, place: tuple[int, int], size: tuple[int, int], resolution: int) -> Window:
    whole = np.zeros(size[::-1], np.uint8)  # transposed, as a mask's run lengths, of which this is part of the result
    (top, left), (height, width) = place, part.shape
    whole[left : left + width, top : top + height] = part.T * np.uint8(255)
    how = cv2.INTER_AREA if resolution <= min(size) else cv2.INTER_LINEAR
    resized = cv2.resize(whole, (resolution, resolution), interpolation=how)
    return _cropped(0, 0, cv2.transpose(resized) >= 128)


def _by_periods(part: np.ndarray, place: tuple[int, int], size: tuple[int, int], resolution: int) -> Window | None:
    """By OpenCV with those pixels around it alone after which its weights repeat; None where these are too many.

    Of 1920 pixels at 1008, 40 make 21; where a pixel of the model's size is a whole number of the view's, it is these.
    """
    shared = [math.gcd(side, resolution) for side in size]
    (high, wide), (down, right) = (
        [one // n for one, n in zip(of, shared, strict=True)] for of in (size, [resolution] * 2)
    )
    (row, above), (column, before) = divmod(place[0], high), divmod(place[1], wide)
    rows, columns = -(-(above + part.shape[0]) // high), -(-(before + part.shape[1]) // wide)
    if rows * high * columns * wide * _LARGE > size[0] * size[1]:
        return None
    pixels = np.zeros((columns * wide, rows * high), np.uint8)  # transposed, as in the whole
    pixels[before : before + part.shape[1], above : above + part.shape[0]] = part.T * np.uint8(255)
    resized = cv2.resize(pixels, (rows * down, columns * right), interpolation=cv2.INTER_AREA)
    return _cropped(row * down, column * right, cv2.transpose(resized) >= 128)


def _by_area(part: np.ndarray, place: tuple[int, int], size: tuple[int, int], resolution: int) -> Window | None:
    """By exact areas; None where a pixel is so near to half covered that OpenCV's rounding decides."""
    top, sums = _sums(part, place[0], size[0], resolution)
    left, sums = _sums(sums.T, place[1], size[1], resolution)
    full = size[0] * size[1]
    beyond_half = 2 * sums.T - full
    return None if (np.abs(beyond_half) <= _NEAR_HALF * full).any() else (top, left, beyond_half > 0)


def _sums(values: np.ndarray, start: int, side: int, resolution: int) -> tuple[int, np.ndarray]:
    """The first of `resolution` cells of a side that rows of values reach, and their sums in each, times resolution.

    The rows begin at `start`. What is left out of a cell by `_SLIVERS` is left out here, too.
    """
    count = len(values)
    first, stop = start * resolution // side, -(-(start + count) * resolution // side)
    edges = np.arange(first, stop + 1) * side  # in 1/resolution of a pixel, as all lengths here
    begin, end = edges[:-1], edges[1:]
    rest, over = -begin % resolution, end % resolution
    begin = begin + np.where(_SLIVERS * rest <= resolution, rest, 0)
    end = end - np.where(_SLIVERS * over <= resolution, over, 0)
    total = np.zeros((count + 1, values.shape[1]), np.int64)
    np.cumsum(values, axis=0, out=total[1:])

    def until(edge: np.ndarray) -> np.ndarray:
        row, beyond = np.divmod(np.clip(edge - start * resolution, 0, count * resolution), resolution)
        found: np.ndarray = total[row] * resolution + beyond[:, None] * values[np.minimum(row, count - 1)]
        return found

    return first, until(end) - until(begin)
