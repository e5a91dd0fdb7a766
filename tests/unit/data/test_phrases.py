"""Pairs of an image and a phrase, and annotations with a noun phrase: what is present, absent and unknown."""

from __future__ import annotations

import pytest
from coco_files import annotation, rle

from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.data.subsets import Subset
from sam3_hyperet.data.supercategories import WithSupercategories, families
from sam3_hyperet.errors import DataError


def pair(number, phrase, **changes):
    plain = {"id": number, "file_name": "a.png", "height": 20, "width": 30, "text_input": phrase}
    return plain | {"queried_category": "7", "is_instance_exhaustive": 1, "is_pixel_exhaustive": 1} | changes


def mask(number, image):
    fractions = {"bbox": [0.1, 0.2, 0.4, 0.2], "area": 0.08}
    return annotation(number, image_id=image, category_id=1, segmentation=rle(), **fractions)


def known(images, i=0):
    """Names of the present and of the absent categories, and of those of which more may be there."""
    names = {category.id: category.name for category in images.categories}
    present = {one.category_id for one in images.instances(i)}
    absent = names.keys() - present - images.unlabelled(i) - images.never_absent
    return [{names[number] for number in ids} for ids in (present, absent, images.not_exhaustive(i))]


@pytest.fixture
def pairs(write):
    """A function that reads pairs of one picture, a second picture beside it."""

    def read(*records, annotations):
        file, folder = write(
            {
                "images": list(records),
                "annotations": annotations,
                "categories": [{"id": 1, "name": "object", "supercategory": "object"}],
            }
        )
        (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
        return read_coco(file, folder)

    return read


def test_pairs_of_one_picture_are_one_image(pairs):
    images = pairs(
        pair(10, "a red car"),
        pair(11, "the dog"),
        pair(12, "house", file_name="b.png"),
        pair(13, "A Red Car", file_name="b.png"),
        annotations=[mask(1, 10), mask(2, 10), mask(3, 12)],
    )
    assert [images.image(i).image_id for i in range(len(images))] == [10, 12]
    assert known(images, 0) == [{"a red car"}, {"the dog"}, set()]  # of "house", nothing is known here
    assert known(images, 1) == [{"house"}, {"a red car"}, set()]
    assert [one.area for one in images.instances(0)] == [70, 70]  # the mask's, not a fraction
    assert images.adjusted == {"pair of an image and a phrase, joined with others of its image": 2}


def test_phrases_that_no_image_shows_are_absent_where_they_were_asked(pairs):
    images = pairs(
        pair(10, "cat"),
        pair(11, "dog"),
        pair(12, "cat", file_name="b.png"),
        pair(13, "red umbrella", file_name="b.png"),
        annotations=[mask(1, 10)],
    )
    assert known(images, 0) == [{"cat"}, {"dog"}, set()]
    assert known(images, 1) == [set(), {"cat", "red umbrella"}, set()]
    assert known(Subset(images, [1])) == known(images, 1)
    lines = [line for line in data_notes(images) if "absent" in line]
    assert lines == ["coco: without any annotation, and where the file says so, absent: dog, red umbrella"]
    kinds = WithSupercategories(images, families({"animal": ("cat", "dog"), "thing": ("red umbrella",)}, images))
    assert known(kinds, 0) == [{"cat", "animal"}, {"dog"}, set()]
    assert known(kinds, 1) == [set(), {"cat", "red umbrella", "thing"}, set()]  # of dogs, nothing is known


def test_an_image_whose_every_phrase_is_absent_is_trained_on(pairs):
    images = pairs(pair(10, "cat"), pair(11, "dog", file_name="b.png"), annotations=[mask(1, 10)])
    sampler = PromptSampler(images.categories, never_absent=images.never_absent)
    prompts = ConceptPrompts(images, 32, sampler)
    assert not prompts.dropped
    assert [query.query_text for query in prompts[1].find_queries] == ["dog"]


def test_pairs_that_are_not_exhaustive(pairs):
    images = pairs(
        pair(10, "car", is_instance_exhaustive=0),
        pair(11, "dog", is_instance_exhaustive=0),
        pair(12, "house", file_name="b.png"),
        pair(13, "dog", file_name="b.png"),
        annotations=[mask(1, 10), mask(2, 12), mask(3, 13)],
    )
    assert known(images, 0) == [{"car"}, set(), {"car"}]
    assert known(images, 1) == [{"house", "dog"}, set(), set()]


def test_a_phrase_that_is_asked_twice_is_one(pairs):
    images = pairs(pair(10, "car"), pair("11", "car"), annotations=[mask(1, 10), mask(2, "11")])
    assert known(images) == [{"car"}, set(), set()]
    assert len(images.instances(0)) == 2
    assert images.adjusted["phrase asked twice of an image, taken together"] == 1


@pytest.mark.parametrize(
    ("records", "annotations", "message"),
    [
        (
            [pair(10, "car"), pair(11, "dog", width=31)],
            [],
            r"image 11: its size is \(31, 20\), that of a.png in image 10",
        ),
        ([pair(10, "car"), pair(10, "dog")], [], "image 10: two images have this id"),
        ([pair(10, "car"), {"id": 11, "file_name": "b.png"}], [], "image 11: the key 'text_input' is missing"),
        ([pair(10, "car")], [mask(1, 11)], "its image_id 11 is not among the 1 image"),
        ([pair(10, ["car"])], [], r"image 10: its text_input is \['car'\], expected text"),
    ],
)
def test_pairs_that_cannot_be_are_refused(pairs, records, annotations, message):
    with pytest.raises(DataError, match=message):
        pairs(*records, annotations=annotations)


def test_noun_phrases_are_categories(write):
    file, folder = write(
        {
            "images": [
                {"id": number, "file_name": name, "height": 20, "width": 30}
                for number, name in ((1, "a.png"), (2, "b.png"), (3, "c.png"))
            ],
            "annotations": [
                annotation(1, image_id=1, category_id=3, noun_phrase="red car"),
                annotation(2, image_id=1, category_id=5),
                annotation(3, image_id=2, category_id=3, noun_phrase="blue_car"),
            ],
            "categories": [{"id": 3, "name": "car"}, {"id": 5, "name": "house"}, {"id": 6, "name": "dog"}],
        }
    )
    for name in ("b.png", "c.png"):
        (folder / name).write_bytes((folder / "a.png").read_bytes())
    images = read_coco(file, folder)
    assert known(images, 0) == [{"red car", "house"}, set(), set()]  # it may show a blue car, too
    assert known(images, 1) == [{"blue car"}, {"house"}, set()]
    assert known(images, 2) == [set(), {"red car", "blue car", "house"}, set()]  # it shows no car
    assert images.adjusted == {"noun phrase of an annotation, read as its category": 2}


def test_noun_phrases_that_are_the_categories_names_change_nothing(write):
    file, folder = write(
        {
            "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
            "annotations": [annotation(1, image_id=1, category_id=3, noun_phrase="car")],
            "categories": [{"id": 3, "name": "car"}, {"id": 6, "name": "dog"}],
        }
    )
    images = read_coco(file, folder)
    assert [category.id for category in images.categories] == [3, 6]
    assert not images.adjusted


def test_keys_of_phrases_that_are_null_say_nothing(write):
    file, folder = write(
        {
            "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 30, "text_input": None}],
            "annotations": [annotation(1, image_id=1, category_id=3, noun_phrase=None)],
            "categories": [{"id": 3, "name": "car"}, {"id": 6, "name": "dog"}],
        }
    )
    assert [category.id for category in read_coco(file, folder).categories] == [3, 6]
