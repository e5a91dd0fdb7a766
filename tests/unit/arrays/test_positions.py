"""Positions that are evenly spread: those of NumPy, without it."""

from __future__ import annotations

import numpy as np

from sam3_hyperet.arrays.positions import spread


def test_positions_are_numpys():
    for count in range(200):
        for most in (1, 2, 3, 7, 64, 200):
            expected = np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
            assert spread(count, most) == expected
            assert len(set(expected)) == min(count, most)
    assert spread(100, 64)[-1] == 99
    assert spread(5, 0) == []
