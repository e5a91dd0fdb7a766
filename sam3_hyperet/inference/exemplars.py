"""Box exemplars: boxes on an image that a prompt is given beside its text, or alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError

Box = tuple[float, float, float, float]
_SLACK = 1e-6  # rounding of fractions


@dataclass(frozen=True)
class Exemplars:
    """Boxes on an image that a prompt is given: around what it means, or around what it does not mean.

    A prompt that has no text but them is the text `choices.VISUAL`. Raises ConfigError for boxes that cannot be.

    Attributes:
        boxes: centre x, centre y, width and height of each, as fractions of the image's sides.
        positive: whether each is around what the prompt means; () for all.
    """

    boxes: tuple[Box, ...]
    positive: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.boxes or len(self.positive) not in (0, len(self.boxes)):
            found = f"{len(self.boxes)} boxes of a prompt, and {len(self.positive)} values of positive"
            raise ConfigError(f"{found}; expected one box or more, and as many values or none")
        for x, y, width, height in self.boxes:
            nearest, farthest = min(x - width / 2, y - height / 2), max(x + width / 2, y + height / 2)
            if not (nearest >= -_SLACK and farthest <= 1 + _SLACK and width > 0 and height > 0):
                raise ConfigError(
                    f"exemplar {[x, y, width, height]}; expected centre x, centre y, width and height of a box within "
                    "its image, as fractions of the image's sides"
                )

    @classmethod
    def in_pixels(
        cls, boxes: Sequence[Sequence[float]], size: tuple[int, int], positive: Sequence[bool] = ()
    ) -> "Exemplars":
        """The exemplars at [x, y, width, height] in pixels of an image of (width, height), cut at its border."""
        return cls(tuple(fractions(box, *size) for box in boxes), tuple(positive))


def for_each(exemplars: Sequence[Exemplars | None] | None, count: int) -> Sequence[Exemplars | None]:
    """The exemplars of each of so many prompts: None, for all of them, is no boxes. Raises ConfigError."""
    given = [None] * count if exemplars is None else exemplars
    if len(given) != count:
        raise ConfigError(f"{len(given)} exemplars for {count} prompts; expected one or None for each")
    return given


def fractions(box: Sequence[float], width: int, height: int) -> Box:
    """Centre, width and height as fractions, of a box [x, y, width, height] in pixels, cut at the image's border.

    Raises ConfigError for a box without an area and for one that lies mostly outside the image.
    """
    if len(box) != 4 or not all(math.isfinite(number) for number in box) or box[2] <= 0 or box[3] <= 0:
        raise ConfigError(f"box {list(box)}; expected [x, y, width, height] in pixels, of an area above 0")
    x, y, w, h = box
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
    if max(0.0, right - left) * max(0.0, bottom - top) < w * h / 2:
        raise ConfigError(
            f"box {list(box)} lies mostly outside its image of {width} × {height} pixels; expected "
            "[x, y, width, height] in pixels"
        )
    return (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height


def geometric_prompt(exemplars: Sequence[Exemplars | None], device: torch.device) -> host.GeometricPrompt:
    """SAM 3's boxes of prompts, in fp32, of which some may have none: each padded to as many as the one with most."""
    most = max(len(one.boxes) for one in exemplars if one is not None)
    boxes = torch.zeros(len(exemplars), most, 4)
    labels, padding = torch.zeros(len(exemplars), most, dtype=torch.long), torch.ones(len(exemplars), most).bool()
    for row, one in enumerate(exemplars):
        if one is not None:
            count = len(one.boxes)
            boxes[row, :count] = torch.tensor(one.boxes)
            labels[row, :count] = torch.tensor(one.positive).long() if one.positive else 1
            padding[row, :count] = False
    return host.GeometricPrompt(
        box_embeddings=boxes.transpose(0, 1).contiguous().to(device),
        box_mask=padding.to(device),
        box_labels=labels.T.contiguous().to(device),
    )
