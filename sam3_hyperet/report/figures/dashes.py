"""A mask as a dashed outline: what a model found, but not with confidence."""

import cv2
import numpy as np
from numpy.typing import NDArray

_DASH, _GAP = 7, 6  # pixels
_WHITE, _DARK = (255, 255, 255), (40, 40, 40)


def with_dashes(image: NDArray[np.uint8], mask: np.ndarray) -> NDArray[np.uint8]:
    """A copy of an image (H, W, 3) uint8 with the outline of a mask (H, W) in white dashes on dark."""
    drawn = np.ascontiguousarray(image.copy())
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for outline in outlines:
        closed = np.concatenate([outline, outline[:1]])
        for first in range(0, len(outline), _DASH + _GAP):
            dash = closed[first : first + _DASH]
            for color, thickness in ((_DARK, 4), (_WHITE, 2)):
                cv2.polylines(drawn, [dash], False, color, thickness, cv2.LINE_AA)
    return drawn
