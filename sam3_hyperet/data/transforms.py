"""Images and masks at the model's size: SAM 3's own preprocessing, and views of an image for training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.masks import decode

MEAN = STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class View:
    """A rectangle of an image in pixels, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False

    def of(self, array: np.ndarray) -> np.ndarray:
        """What the view shows of an array (H, W)."""
        shown = array[self.top : self.top + self.height, self.left : self.left + self.width]
        return shown[:, ::-1] if self.flip else shown


@dataclass(frozen=True)
class Augmentation:
    """Random views. flip: the probability of mirroring. zoom: the largest factor of a random crop, drawn log-uniformly.
    views: how many different ones an image has, taken in turn by epoch; 0 for new ones every epoch."""

    flip: float = 0.5
    zoom: float = 1.0
    views: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip is {self.flip}, expected a probability")
        if not 1 <= self.zoom <= 16:
            raise ConfigError(f"zoom is {self.zoom}, expected 1 (no crop) to 16")
        if type(self.views) is not int or self.views < 0:
            raise ConfigError(f"views is {self.views!r}, expected an integer from 0")

    @property
    def is_random(self) -> bool:
        """Whether an image's views differ at all."""
        return self.flip not in (0, 1) or self.zoom > 1

    def view(self, height: int, width: int, rng: np.random.Generator) -> View:
        """A view of an image of this size; it takes the same number of draws whatever the options."""
        flip, factor, down, right = rng.random(4)
        factor = self.zoom**factor
        h, w = max(1, round(height / factor)), max(1, round(width / factor))
        return View(round(down * (height - h)), round(right * (width - w)), h, w, bool(flip < self.flip))


def whole(height: int, width: int) -> View:
    """The view of all of an image."""
    return View(0, 0, height, width)


def image_tensor(image: Image.Image, resolution: int, view: View) -> torch.Tensor:
    """(3, resolution, resolution) float32 in [-1, 1]; of a whole image exactly what SAM 3's processor makes."""
    pixels = F.pil_to_tensor(image)[:, view.top : view.top + view.height, view.left : view.left + view.width]
    pixels = F.resize(pixels.flip(-1) if view.flip else pixels, [resolution, resolution])
    pixels = F.to_dtype(pixels, torch.float32, scale=True)
    tensor: torch.Tensor = F.normalize(pixels, mean=list(MEAN), std=list(STD))
    return tensor


@dataclass(frozen=True)
class Masks:
    """N regions as a view shows them at the model's size; boxes are from the masks at the image's size."""

    pixels: np.ndarray  # (N,) how many of the image's pixels are within the view
    boxes: torch.Tensor  # (N, 4) normalised centre x, centre y, width, height; 0 where empty
    masks: torch.Tensor  # (N, resolution, resolution) bool


def masks_in_view(rles: Sequence[dict[str, Any]], resolution: int, view: View) -> Masks:
    """Decode masks and bring them to the model's size: a pixel belongs to a mask that covers at least half of it."""
    pixels = np.zeros(len(rles), np.int64)
    boxes = np.zeros((len(rles), 4))
    masks = np.zeros((len(rles), resolution, resolution), bool)
    how = cv2.INTER_AREA if resolution <= min(view.height, view.width) else cv2.INTER_LINEAR
    for n, rle in enumerate(rles):
        # transposed, as run lengths go down columns: the array is then contiguous without a copy
        mask = np.ascontiguousarray(view.of(decode(rle)).T)
        pixels[n] = cv2.countNonZero(mask)
        if not pixels[n]:
            continue
        y, x, h, w = cv2.boundingRect(mask)
        boxes[n] = x + w / 2, y + h / 2, w, h
        resized = cv2.resize(mask * np.uint8(255), (resolution, resolution), interpolation=how)
        np.greater_equal(cv2.transpose(resized), 128, out=masks[n])
    boxes /= (view.width, view.height, view.width, view.height)
    return Masks(pixels, torch.from_numpy(boxes).float(), torch.from_numpy(masks))
