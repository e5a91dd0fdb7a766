"""Names that tell left from right, and what becomes of mirroring."""

from __future__ import annotations

import pytest

from sam3_hyperet.data.annotations import AnnotatedImages, Category
from sam3_hyperet.data.directions import directional
from sam3_hyperet.data.notes import flip_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import augmentation

TELL = [
    "left hand",
    "Right Lung",
    "person facing left",
    "clockwise arrow",
    "linke Hand",
    "main gauche",
    "左手",
    "left-hand",
]
DO_NOT = [
    "hand",
    "leftovers",
    "bright light",
    "copyright sign",
    "lung",
    "human rights flag",
    "L shape",
    "upright piano",
]


def of(*names: str, flip: float | None = None):
    images = AnnotatedImages("s", [Category(n, name) for n, name in enumerate(names)])
    options = DataOptions(name="s", format="coco", root=".", splits={}, flip=flip)
    return augmentation(options, images).flip, flip_notes(images, flip)


@pytest.mark.parametrize("name", TELL)
def test_such_a_vocabulary_is_not_mirrored(name):
    flip, (note,) = of("dog", name)
    assert flip == 0
    assert f"images are not mirrored, since left and right are told apart by {name}" in note
    flip, (note,) = of("dog", name, flip=0.5)
    assert flip == 0.5
    assert "warning: data.flip=0.5 mirrors images, though" in note
    assert of("dog", name, flip=0) == (0, [])


@pytest.mark.parametrize("name", DO_NOT)
def test_other_names_are(name):
    assert of("dog", name) == (0.5, [])


def test_a_letter_counts_with_its_partner_and_a_synonym_as_a_name():
    categories = [
        Category(0, "hip L"),
        Category(1, "hip R"),
        Category(2, "knee", ("left knee",)),
        Category(3, "plan L"),
    ]
    assert directional(categories) == ["hip L", "hip R", "knee"]
