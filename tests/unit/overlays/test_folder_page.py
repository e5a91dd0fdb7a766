"""The page of a folder of overlays: its legend is of all phrases, and pictures need those alone that they show."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from sam3_hyperet.overlays.folder_page import Found, Legend, Picture, folder_page

PHRASES = ("car", "red wheel", "<sky>", "never found")


def found(numbers: random.Random, beside_base: bool) -> list[Found]:
    """What an image was asked for: some of the phrases, most of which it does not show."""
    asked = [k for k in range(len(PHRASES)) if numbers.random() < 0.8]
    return [
        Found(
            PHRASES[k],
            k,
            numbers.choice((0, 0, 3)) if k < 3 else 0,
            numbers.choice((0, 0, 2)) if beside_base and k < 3 else 0 if beside_base else None,
            int(k == 1 and numbers.random() < 0.3),
        )
        for k in asked
    ]


@pytest.mark.parametrize("beside_base", [True, False])
def test_running_sums_are_those_of_all_pictures(beside_base: bool) -> None:
    numbers = random.Random(0)
    pictures = [
        Picture(f"{k}.png", f"{k}", (9, 9), (9, 9), [("", (0, 0, 9, 9))], found(numbers, beside_base)) for k in range(9)
    ]
    legend, every = Legend(), [one for picture in pictures for one in picture.found]
    for picture in pictures:
        legend.add(picture.found)
    phrases = list(dict.fromkeys(one.phrase for one in every))
    assert len(phrases) == len(PHRASES)
    for entry, phrase in zip(legend.entries, phrases, strict=True):
        of_phrase = [one for one in every if one.phrase == phrase]
        base = sum(one.base for one in of_phrase) if beside_base else None
        assert entry == Found(phrase, PHRASES.index(phrase), sum(one.count for one in of_phrase), base)

    shown = [replace(one, found=[f for f in one.found if f.is_drawn]) for one in pictures]
    assert sum(len(one.found) for one in shown) < len(every)
    page = folder_page("9 images", {"base": "tiny"}, pictures, legend, ["results.json"])
    assert folder_page("9 images", {"base": "tiny"}, shown, legend, ["results.json"]) == page
    assert "never found 0" in page
