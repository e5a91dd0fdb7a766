"""Images with many instances of one name: counted without a mask being made, and warned of beyond what SAM 3 finds."""

from __future__ import annotations

from collections import Counter

import pytest
from coco_files import annotation, content, rle

from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.label_maps import LabelMaps
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.subsets import OfGranularities, OfVocabulary, Subset
from sam3_hyperet.data.supercategories import WithSupercategories, families


def names(images):
    return {category.id: category.id for category in images.categories}


def counted(images):
    """As `max_instances`, of the masks themselves."""
    every = (Counter(one.category_id for one in images.instances(i) if not one.crowd) for i in range(len(images)))
    known = names(images).keys()
    return [max((n for category, n in found.items() if category in known), default=0) for found in every]


def of_supercategories(coco):
    return WithSupercategories(coco, families({"living": "person,dog,cat", "gear": "chair,dining table,cup"}, coco))


@pytest.fixture(scope="module")
def coco(shared_data):
    found = read_coco(shared_data / "coco" / "annotations" / "instances_val2017.json", shared_data / "coco" / "val2017")
    return Subset(found, range(0, len(found), 3)[:12])


@pytest.mark.parametrize(
    "part",
    [
        lambda coco: coco,
        lambda coco: Subset(coco, [4, 2, 9]),
        lambda coco: OfVocabulary(coco, [c.id for c in coco.categories[1:9]]),
        lambda coco: OfGranularities(coco, ["part"]),
        of_supercategories,
        lambda coco: OfVocabulary(of_supercategories(coco), [max(c.id for c in coco.categories) + 1]),
    ],
)
def test_the_largest_number_of_a_name_is_that_of_the_masks(coco, part):
    images = part(coco)
    assert images.max_instances(names(images)).tolist() == counted(images)


def test_several_names_count_as_one_where_they_are_to(coco):
    everything = coco.max_instances(dict.fromkeys(names(coco), 0))
    assert everything.tolist() == [sum(not one.crowd for one in coco.instances(i)) for i in range(len(coco))]
    assert coco.max_instances({}).tolist() == [0] * len(coco)


def many(count, **last):
    value = content()
    value["annotations"] = [annotation(n) for n in range(1, count)] + [annotation(count, **last)]
    return value


def test_more_of_a_name_than_sam3_finds_is_warned_of(write):
    images = read_coco(*write(many(201)))
    (line,) = (line for line in data_notes(images) if "200" in line)
    assert "warning: 1 of 1 image show more than 200 instances of one name, at most 201; SAM 3 finds up to 200" in line
    assert "crop these images" in line
    for value in (many(200), many(201, category_id=5), many(201, iscrowd=1, segmentation=rle())):
        assert not any("SAM 3 finds" in line for line in data_notes(read_coco(*write(value))))


def test_of_maps_of_objects_nothing_is_known_and_of_classes_each_is_one_region():
    maps = LabelMaps.__new__(LabelMaps)
    maps._files, maps._objects = [("a.jpg", "a.png")] * 2, []
    assert maps.max_instances({1: 1}).tolist() == [1, 1]
    maps._objects = ["b.png"] * 2
    assert maps.max_instances({1: 1}) is None
