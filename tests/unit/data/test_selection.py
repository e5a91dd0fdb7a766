"""Which images are held out, and which are the few shots: by seed and by name alone."""

from __future__ import annotations

import pytest
from drawn_pictures import Annotated

from sam3_hyperet.data.annotations import Category, ImageInfo, Instance
from sam3_hyperet.data.disjoint import shared_pictures
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.selection import few_shots, in_chance_order, picture_name, positions, take
from sam3_hyperet.data.sources import open_run, open_split
from sam3_hyperet.errors import ConfigError

NAMES = [f"{number:03}.png" for number in range(20)]


@pytest.fixture
def images(tmp_path):
    """A function from names, or names with the categories that they show, to images."""

    def make(shown, folder=tmp_path):
        shown = shown if isinstance(shown, dict) else dict.fromkeys(shown, "a")
        infos = [ImageInfo(i, folder / name, 8, 8) for i, name in enumerate(shown)]
        instances = [tuple(Instance("abc".index(one), {}) for one in letters) for letters in shown.values()]
        return Annotated("set", [Category(i, name) for i, name in enumerate("abc")], infos, instances)

    return make


def chosen(images, groups):
    return [images.image(i).path.name for i in positions(groups)]


@pytest.mark.parametrize(
    ("file_name", "picture"),
    [
        ("street-1_png.rf.0f3a9b.jpg", "street-1"),
        ("a.b_jpeg.rf.AbC123xyz.JPG", "a.b"),
        ("plain.rf.0f3a9b.jpg", "plain"),
        ("a_png.jpg", "a_png"),
        ("cafe\u0301.png", "café"),
    ],
)
def test_copies_of_a_picture_have_its_name(file_name, picture):
    assert picture_name(file_name) == picture


def test_what_is_held_out_depends_on_seed_and_names_alone(images, tmp_path):
    one, other = images(NAMES), images(NAMES[::-1], tmp_path / "elsewhere")
    held = [set(chosen(data, take(in_chance_order(data, 3), 5)[0])) for data in (one, other)]
    assert held[0] == held[1]
    assert len(held[0]) == 5
    assert held[0] != set(chosen(one, take(in_chance_order(one, 4), 5)[0]))
    more = images([*NAMES, "020.png"])  # a new image moves one other at most
    assert len(held[0] - set(chosen(more, take(in_chance_order(more, 3), 5)[0]))) <= 1


def test_images_of_one_name_in_several_folders_are_told_apart(images):
    data = images([f"{folder}/{name}" for folder in ("left", "right") for name in NAMES])
    groups = in_chance_order(data, 0)
    assert sorted(map(len, groups)) == [1] * 40
    sides = {data.image(i).path.parent.name for i in positions(take(groups, 8)[0])}
    assert sides == {"left", "right"}


def test_copies_of_one_picture_stay_together(images):
    data = images([f"{name}_jpg.rf.{copy}{name}.jpg" for name in "abcdef" for copy in "123"])
    held, left = take(in_chance_order(data, 0), 4)
    assert [len(group) for group in held] == [3, 3]
    assert len(left) == 4
    assert take([[0, 1, 2]], 1) == ([], [[0, 1, 2]])  # one group is always left


def test_pictures_on_both_sides_are_found(images):
    train, val = images(["a_jpg.rf.1.jpg", "b_jpg.rf.2.jpg", "c.jpg"]), images(["b_jpg.rf.3.jpg", "c.jpg"])
    assert shared_pictures(train, val) == ["b", "c.jpg"]


def test_the_rarest_category_chooses_first(images):
    shown = dict.fromkeys(NAMES[:12], "a") | dict.fromkeys(NAMES[12:16], "ab") | {"c.png": "c"}
    data = images(shown)
    order = in_chance_order(data, 0)
    few, lines = few_shots(data, order, 3)
    names = [data.image(i).path.name for i in few]
    assert "c.png" in names
    assert len(names) == 4  # the three that show b show a, too
    assert lines == [
        "data.shots=3: 4 of 17 images; images by category: a 3, b 3, c 1",
        "fewer than 3 images show: c 1",
    ]
    assert few == few_shots(data, order, 3)[0] != few_shots(data, in_chance_order(data, 1), 3)[0]


def test_one_copy_of_a_picture_is_a_shot(images):
    data = images([f"{name}_jpg.rf.{copy}{name}.jpg" for name in "abc" for copy in "123"])
    few, _ = few_shots(data, in_chance_order(data, 0), 9)
    assert {picture_name(data.image(i).path.name) for i in few} == set("abc")
    assert len(few) == 3


@pytest.fixture(scope="module")
def one_file(tmp_path_factory):
    """A set with one file for everything."""
    from exports import EXPORTS

    root = EXPORTS["COCO, one file"](tmp_path_factory.mktemp("one") / "shop")

    def options(**changes):
        values = {"name": "shop", "format": "coco", "root": str(root), "splits": {"train": [".", "annotations.json"]}}
        return DataOptions(**values | {"tune_images": 2} | changes)

    return options


def ids(options, split):
    images = open_split(options, split).images
    return {images.image(i).image_id for i in range(len(images))}


def test_the_splits_of_one_file_are_apart_and_all_of_it(one_file):
    parts = [ids(one_file(), split) for split in ("train", "tune", "val")]
    assert [len(part) for part in parts] == [7, 2, 2]
    assert set.union(*parts) == set(range(1, 12))
    assert [len(ids(one_file(validation_fraction=0.5), split)) for split in ("train", "tune", "val")] == [3, 2, 6]
    assert ids(one_file(seed=1), "val") != parts[2]
    notes = data_notes(open_split(one_file(), "val").images)
    held = "no val split: 2 of 11 training images are held out for it (data.validation_fraction=0.2, data.seed=0)"
    assert f"shop: {held}" in notes


def test_shots_and_tuning_images_are_never_validation_images(one_file):
    few = one_file(shots=1)
    parts = [ids(few, split) for split in ("train", "tune", "val")]
    assert parts[2] == ids(one_file(), "val")
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert 1 <= len(parts[0]) <= 3
    notes = "\n".join(open_split(few, "train").images.remarks)
    assert "data.shots=1: " in notes
    assert "2 more images choose the best step" in notes


def test_an_evaluation_knows_its_images_by_what_was_held_out(one_file):
    from sam3_hyperet.evaluation.protocol import Protocol
    from sam3_hyperet.evaluation.recording import split_facts
    from sam3_hyperet.evaluation.task import open_task

    every = [one_file(), one_file(), one_file(seed=1)]
    first, again, other = (split_facts(data, open_task(open_split(data, "val"), Protocol())) for data in every)
    assert first == again
    assert {key for key in first if first[key] != other[key]} == {"files"}
    assert first["annotations"] is not None


def test_nothing_to_score_is_refused(one_file):
    with pytest.raises(ConfigError, match=r"no image to score: no val split, 11 training images and .*fraction=0;"):
        open_split(one_file(validation_fraction=0.0), "val")
    assert len(ids(one_file(validation_fraction=0.0, tune_images=0), "train")) == 11


def test_pictures_of_two_splits_are_warned_of(one_file):
    both = one_file(splits={**one_file().splits, "val": one_file().splits["train"]})
    remarks = open_run(both, tune=False, evaluate=True).training.remarks
    assert remarks[-1].startswith("warning: val has 11 pictures of train; ")
    assert not open_run(one_file(), tune=False, evaluate=True).training.remarks[-1].startswith("warning")
