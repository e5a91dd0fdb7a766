"""Concept trees: what has to be asked in addition, who is beside whom, and the trees of the three data sets."""

from __future__ import annotations

import json

import pytest

from sam3_hyperet.data.ade20k import read_object_info
from sam3_hyperet.data.annotations import Category
from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.hierarchy import ADE20K, COCO_PROMPTS, Hierarchy, hierarchy_of
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.scenes.concepts import CONCEPTS

TREE = Hierarchy(
    kinds={"vehicle": ("car", "bus"), "building": ("building", "house"), "pet": ("dog",)},
    parts={"car": ("wheel", "door"), "bus": ("wheel", "pole"), "house": ("door", "roof"), "dog": ("tail",)},
)


def scene_categories():
    return [Category(c.id, c.name, c.synonyms, c.granularity, c.parents) for c in CONCEPTS.values()]


def test_only_parents_outside_the_vocabulary_are_asked_in_addition():
    vocabulary = ("car", "bus", "building", "house", "dog", "wheel", "door", "pole", "roof", "tail")
    assert TREE.prompts(vocabulary) == ("vehicle", "pet")
    assert TREE.prompts((*vocabulary, "pet", "vehicle")) == ()
    with pytest.raises(ConfigError, match="'tail' is not among the 9 names"):
        TREE.prompts(vocabulary[:-1])


@pytest.mark.parametrize(
    ("name", "siblings", "cousins"),
    [
        ("car", {"bus"}, {"building", "house", "dog"}),
        ("house", {"building"}, {"car", "bus", "dog"}),
        ("dog", set(), {"car", "bus", "building", "house"}),
        ("door", {"wheel", "roof"}, {"pole"}),  # of a car or a house; "pole" is of the bus, beside the car
        ("roof", {"door"}, set()),  # "building", beside "house", has no parts
        ("wheel", {"door", "pole"}, set()),
        ("tail", set(), set()),
        ("vehicle", set(), set()),
    ],
)
def test_siblings_and_cousins(name, siblings, cousins):
    assert TREE.siblings(name) == siblings
    assert TREE.cousins(name) == cousins


def test_strangers_are_all_others_but_the_lineage():
    assert TREE.strangers("roof") == {"car", "bus", "dog", "wheel", "pole", "tail"}
    assert TREE.strangers("house") == {"wheel", "pole", "tail"}
    assert TREE.strangers("car") == {"roof", "pole", "tail"}
    assert not any(ADE20K.strangers(name) for name in ADE20K.children)  # two levels: all others are cousins


def test_siblings_are_mutual_and_nobody_is_their_own():
    for tree in (TREE, ADE20K, hierarchy_of(scene_categories())):
        for relatives in (tree.siblings, tree.cousins, tree.strangers):
            of = {name: relatives(name) for name in tree.children}
            assert all(name not in others for name, others in of.items())
            assert all(name in of[other] for name, others in of.items() for other in others)
        for name in tree.children:
            assert not tree.siblings(name) & tree.cousins(name)


@pytest.mark.parametrize("children", [(), ("car", "car")])
def test_a_parent_without_children_or_with_one_twice(children):
    with pytest.raises(ConfigError, match="'vehicle' has the children"):
        Hierarchy({"vehicle": children})


def test_the_tree_of_the_scenes():
    tree = hierarchy_of(scene_categories())
    assert tree.kinds["vehicle"] == ("car", "bus")
    assert set(tree.kinds) == {"vehicle", "building", "plant", "creature", "ground"}
    assert tree.parts["house"] == ("window", "roof", "door")
    assert tree.prompts([c.name for c in scene_categories()]) == ()
    assert tree.cousins("crown") == {"flower"}


def test_the_tree_of_coco_is_the_annotation_files_own(shared_data):
    file = shared_data / "coco" / "annotations" / "instances_val2017.json"
    categories = read_coco(file, shared_data / "coco" / "val2017").categories
    tree = hierarchy_of(categories)
    records = json.loads(file.read_text())["categories"]
    expected = {}
    for record in records:
        parent = COCO_PROMPTS.get(record["supercategory"], record["supercategory"])
        expected.setdefault(parent, []).append(record["name"])
    assert {parent: list(children) for parent, children in tree.kinds.items()} == expected
    assert len(tree.kinds) == 12
    assert len(tree.prompts([c.name for c in categories])) == 11  # "person" is a category
    assert COCO_PROMPTS.keys() < {record["supercategory"] for record in records}


def test_the_tree_of_ade20k_has_every_class_once(shared_data):
    names = [name for name, _ in read_object_info(shared_data / "ADEChallengeData2016" / "objectInfo150.txt")]
    once = [name for children in ADE20K.kinds.values() for name in children]
    assert sorted(once) == sorted(names)
    assert hierarchy_of([Category(i, name) for i, name in enumerate(names)]) is ADE20K
    assert hierarchy_of([Category(i, name) for i, name in enumerate(names[1:])]) is None
    for parent, children in ADE20K.kinds.items():  # a parent that is a class itself is among its own kinds
        assert (parent in names) == (parent in children)


def test_no_tree():
    assert hierarchy_of([Category(0, "road"), Category(1, "sky")]) is None
