"""Differences of outputs that should be equal."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sam3_hyperet.inference.rounding import relative_difference


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_differences_are_relative_to_what_is_expected(kind):
    expected = kind([[1.0, -4.0], [2.0, 0.0]])
    assert relative_difference(kind([[1.0, -4.0], [2.0, 0.5]]), expected) == 0.125
    assert math.isnan(relative_difference(kind([[1.0, -4.0], [2.0, math.nan]]), expected))
