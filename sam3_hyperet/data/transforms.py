"""Images at the model's size: SAM 3's own preprocessing, and views of an image for training."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from sam3_hyperet.errors import ConfigError

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
