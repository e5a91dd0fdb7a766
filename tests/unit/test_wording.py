"""Counts in the words of messages, and names that are numbered apart."""

from __future__ import annotations

import pytest

from sam3_hyperet.wording import count_of, unique


@pytest.mark.parametrize(
    ("n", "noun", "text"),
    [
        (0, "image", "0 images"),
        (1, "tuning image", "1 tuning image"),
        (1200, "step", "1,200 steps"),
        (2, "category", "2 categories"),
        (2, "loader process", "2 loader processes"),
        (2, "box", "2 boxes"),
        (3, "overlay", "3 overlays"),
    ],
)
def test_a_noun_agrees_with_its_count(n, noun, text):
    assert count_of(n, noun) == text


def test_a_name_that_is_taken_is_numbered():
    taken = {"car", "car-2"}
    assert [unique(name, taken) for name in ("dog", "car", "car-2")] == ["dog", "car-3", "car-2-2"]
