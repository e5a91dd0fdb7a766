"""Concepts above the categories of a data set: label maps, instances, what is known of an image."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo, Instance
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split, prompt_sampler, training_split
from sam3_hyperet.data.supercategories import WithSupercategories, families
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.masks import decode, encode_masks
from sam3_hyperet.options import read_options

KINDS = {"flat": ("road", "pavement"), "human": ("walker",)}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Two label maps: a row each of sky, road, pavement and no class; a road and a walker."""
    root = tmp_path_factory.mktemp("maps")
    for number, rows in ((0, (0, 1, 2, 255)), (1, (1, 1, 3, 3))):
        for folder, array in (("images", np.zeros((4, 6, 3), np.uint8)), ("labels", np.repeat([rows], 6, axis=0).T)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(root / folder / f"{number}.png")

    def made(**changes):
        values = {
            "name": "m",
            "format": "label_maps",
            "root": str(root),
            "names": ("sky", "road", "pavement", "walker"),
        }
        values |= {"splits": {"train": ["images", "labels"], "val": ["images", "labels"]}, "tune_images": 0}
        return DataOptions(**values | {"supercategories": KINDS} | changes)

    return made


def test_label_maps_have_regions_and_maps_of_both_levels(options):
    split = open_split(options(groups={"held_out": ("flat",)}), "val")
    assert [(c.name, c.granularity, c.parents) for c in split.images.categories] == [
        ("sky", "object", ()),
        ("road", "object", (4,)),
        ("pavement", "object", (4,)),
        ("walker", "object", (5,)),
        ("flat", "group", ()),
        ("human", "group", ()),
    ]
    regions = {one.category_id: decode(one.rle)[:, 0].tolist() for one in split.images.instances(0)}
    assert regions == {0: [1, 0, 0, 0], 1: [0, 1, 0, 0], 2: [0, 0, 1, 0], 4: [0, 1, 1, 0]}
    assert split.images.present(1) == {1, 3, 4, 5}
    assert [category.name for category in split.labels.categories] == ["sky", "road", "pavement", "walker"]
    assert split.labels.label_map(0)[:, 0].tolist() == [0, 1, 2, -1]
    assert [category.name for category in split.merged.categories] == ["sky", "flat", "human"]
    assert split.merged.label_map(0)[:, 0].tolist() == [0, 4, 4, -1]
    assert split.merged.label_map(1)[:, 0].tolist() == [4, 4, 5, 5]
    assert split.groups == {"held_out": (4,)}
    assert not split.has_instances
    assert any("flat (road, pavement); human (walker)" in remark for remark in split.images.remarks)
    (position,) = range(len(open_split(options(limit=1), "train").merged))
    assert open_split(options(limit=1), "train").merged.label_map(position).shape == (4, 6)


def test_training_asks_both_levels_or_the_classes_alone(options):
    images = training_split(options(), "train").images
    sampler = prompt_sampler(options(prompt_weights={"group": 1.0}, num_positives=2, num_negatives=0), images)
    asked = {prompt.text for prompt in sampler.sample(images.present(1), (), np.random.default_rng(0))}
    assert asked == {"flat", "human"}
    split = training_split(options(prompts=("sky", "road", "walker")), "train")
    assert [category.name for category in split.images.categories] == ["sky", "road", "walker"]
    assert split.merged is None
    assert open_split(options(supercategories=None), "val").merged is None


class Known(AnnotatedImages):
    """One image with one of several cars, a crowd of buses, a cat, and dogs of which nothing is known."""

    counts = MappingProxyType({1: 4, 2: 3, 3: 1})

    def __init__(self):
        super().__init__("known", [Category(n, name) for n, name in enumerate(("car", "bus", "cat", "dog", "cup"), 1)])

    def __len__(self):
        return 1

    def image(self, i):
        return ImageInfo(1, None, 2, 2)

    def instances(self, i):
        (rle,) = encode_masks(np.eye(2, dtype=bool)[None])
        return Instance(1, rle, id=11), Instance(2, rle, crowd=True, id=12), Instance(3, rle, id=13)

    def crowd_only(self, i):
        return frozenset({2})

    def unlabelled(self, i):
        return frozenset({4})

    def not_exhaustive(self, i):
        return frozenset({1})


def test_what_is_known_of_members_is_known_of_the_supercategory():
    whole = Known()
    kinds = {"vehicle": ("car",), "coach": ("bus",), "pet": ("cat", "dog"), "tableware": ("cup",)}
    images = WithSupercategories(whole, families(kinds, whole))
    vehicle, coach, pet, tableware = (category.id for category in images.categories[5:])
    assert [(one.category_id, one.id, one.crowd) for one in images.instances(0)[3:]] == [
        (vehicle, 11, False),
        (coach, 12, True),
        (pet, 13, False),
    ]
    assert images.present(0) == {1, 3, vehicle, pet}
    assert images.crowd_only(0) == {2, coach}
    assert images.not_exhaustive(0) == {1, vehicle, pet}  # of dogs, nothing is known
    assert images.unlabelled(0) == {4}
    assert images.counts == {1: 4, 2: 3, 3: 1, vehicle: 4, coach: 3, pet: 1}
    assert images.unannotated == {4, 5, tableware}
    dogs = WithSupercategories(whole, families({"hound": ("dog",)}, whole))
    assert dogs.unlabelled(0) == {4, 6}


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"flat": ("road", "street")}, "data.supercategories.flat: street not among"),
        ({"flat": ("road",), "way": ("sky", "road")}, "data.supercategories.way: road in 'flat', too"),
        ({"Sky": ("sky",)}, "data.supercategories.Sky: 'Sky' is the name of a category"),
        ({" ": ("sky",)}, "data.supercategories. +is ' ', expected 1 to 200"),
    ],
)
def test_impossible_supercategories_are_refused(options, kinds, message):
    with pytest.raises(ConfigError, match=message):
        open_split(options(supercategories=kinds), "val")


def test_the_groups_of_camvid_are_cityscapes_own(shared_data):
    config = parse_command("train", ["data=camvid_groups", f"paths.camvid={shared_data / 'camvid'}"])[1]
    split = open_split(read_options(DataOptions, OmegaConf.to_container(config.data), "data"), "val")
    assert {c.name for c in split.merged.categories} == {
        *("sky", "flat", "construction", "object", "nature", "human", "vehicle")
    }
    names = {category.id: category.name for category in split.images.categories}
    assert [names[i] for i in split.groups["held_out"]] == ["flat", "construction", "object", "human"]
    assert {names[i] for i in split.groups["known"]} == {category.name for category in split.labels.categories}
    members = {
        name: [c.name for c in split.images.categories if names.get(*c.parents or (-1,)) == name]
        for name in names.values()
    }
    assert {name for name in members if len(members[name]) > 1} == {names[i] for i in split.groups["held_out"]}
    below, above = split.labels.label_map(0), split.merged.label_map(0)
    assert ((below == -1) == (above == -1)).all()
    assert {names[i] for i in np.unique(above).tolist() if i >= 0} <= set(members) | {"sky"}
