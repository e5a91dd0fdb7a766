"""Colours of phrases, classes and masks: fourteen chosen hues, the first seven safe for the colour-blind."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]

UNMATCHED = -1  # a colour number: the grey of a mask that belongs to nothing
GREY, DARK, WHITE, BLACK = ((level,) * 3 for level in (214, 64, 255, 0))
_HUES = [  # the first seven are Okabe and Ito's
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#f0e442"),
    *("#8c510a", "#999933", "#117733", "#332288", "#aa3377", "#c2e699", "#6a51a3"),
]
_LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in lightness
_GOLDEN_ANGLE = 137.508  # degrees: successive hues never come close


@lru_cache(maxsize=8)
def palette(count: int) -> Pixels:
    """RGB (count, 3): fourteen chosen colours, then generated ones of alternating lightness.

    Colour k is the same in every palette, so a phrase keeps the colour of its position in a list.
    """
    k = np.arange(max(1, count - len(_HUES)))
    lightness, chroma = np.choose(k % 3, [58, 76, 40]), np.choose(k % 2, [42, 28])
    angle = np.deg2rad(20 + _GOLDEN_ANGLE * k)
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)
    rgb = cv2.cvtColor(lab[None].astype(np.float32), cv2.COLOR_LAB2RGB)[0]
    chosen = np.array([list(bytes.fromhex(hue[1:])) for hue in _HUES], dtype=np.uint8)
    result: Pixels = np.concatenate([chosen, np.rint(rgb * 255).astype(np.uint8)])[:count]
    result.flags.writeable = False
    return result


def color(number: int) -> Color:
    """RGB of a number into `palette`, grey for `UNMATCHED`."""
    red, green, blue = GREY if number == UNMATCHED else palette(number + 1)[number].tolist()
    return red, green, blue


def css(number: int) -> str:
    """The same as CSS has it."""
    return f"#{bytes(color(number)).hex()}"


def ink(background: Color) -> Color:
    """Black or white: which of the two is legible on a colour."""
    return BLACK if np.dot(background, _LUMA) > 140 else WHITE


def edge(of: Color) -> Color:
    """The colour of the thin border that sets an outline off from any image."""
    return DARK if of == GREY else WHITE
