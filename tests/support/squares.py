"""A grey image and masks of squares on it."""

from __future__ import annotations

import numpy as np

GREY = np.full((60, 80, 3), 120, np.uint8)


def square(top, left, side, shape=(60, 80)):
    """(height, width) bool: a square by its upper left corner and its side."""
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask
