"""Which files are of which split: by the names of folders in any case, and never by the alphabet."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
from exports import EXPORTS
from PIL import Image

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.data.class_names import read_class_names
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import read_split
from sam3_hyperet.errors import DataError
from sam3_hyperet.layouts.table import explicit, recognise

NAMES = ("0001.png", "0002.png")


def write_images(folder, mode="L", value=90):
    folder.mkdir(parents=True)
    for name in NAMES:
        Image.new(mode, (16, 12), value).save(folder / name)


def write_coco(file):
    box = {"bbox": [2, 2, 6, 6], "area": 36, "iscrowd": 0, "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]]}
    content = {
        "images": [{"id": i, "file_name": name, "width": 16, "height": 12} for i, name in enumerate(NAMES, 1)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, **box} for i in (1, 2)],
        "categories": [{"id": 1, "name": "crack"}],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def opened(root):
    """The folder of each split's images as recognised, below the root, and what was said."""
    options, lines = explicit(DataOptions(name="", format="auto", root=str(root), splits={}))
    images = {split: read_split(options, split).images for split in options.splits}
    return {split: one.image(0).path.parent.relative_to(root).as_posix() for split, one in images.items()}, lines


@pytest.mark.parametrize(
    ("train", "val"), [("photos_train", "photos_eval"), ("train_images", "val_images"), ("Train", "Val")]
)
def test_images_of_one_name_are_of_the_split_that_their_folder_names(tmp_path, train, val):
    for split, folder in (("train", train), ("val", val)):
        write_coco(tmp_path / "annotations" / f"instances_{split}.json")
        write_images(tmp_path / folder)
    assert opened(tmp_path)[0] == {"train": train, "val": val}


@pytest.mark.parametrize("folders", [("images", "train_masks"), ("Images", "Masks"), ("train2017", "train_aug")])
def test_masks_and_copies_are_not_the_images(tmp_path, folders):
    write_coco(tmp_path / "annotations" / "instances_train.json")
    for folder in folders:
        write_images(tmp_path / folder)
    assert opened(tmp_path)[0] == {"train": folders[0]}


def test_images_below_the_folder_of_their_file(tmp_path):
    """As FiftyOne writes them."""
    for split in ("train", "val"):
        write_coco(tmp_path / split / "labels.json")
        write_images(tmp_path / split / "data")
    assert opened(tmp_path)[0] == {"train": "train/data", "val": "val/data"}


def test_folders_of_which_nothing_decides_are_refused(tmp_path):
    write_coco(tmp_path / "labels.json")
    for folder in ("camera_1", "camera_2"):
        write_images(tmp_path / folder)
    with pytest.raises(DataError, match=r"labels\.json: its images are in several folders, camera_1, camera_2; "):
        opened(tmp_path)


def test_the_file_of_no_split_is_trained_on_where_no_other_is(tmp_path):
    for split in ("trainval", "test"):
        write_coco(tmp_path / "annotations" / f"instances_{split}.json")
        write_images(tmp_path / split)
    found, lines = opened(tmp_path)
    assert found == {"train": "trainval", "val": "test"}
    assert any(
        "taken for training, as no other file is by its name: annotations/instances_trainval" in x for x in lines
    )


def test_a_file_of_no_split_beside_val_is_left_aside(tmp_path):
    """It may contain the other, as `trainval` and `minival` do."""
    for name in ("val", "minival"):
        write_coco(tmp_path / f"{name}.json")
    write_images(tmp_path / "images")
    found, lines = opened(tmp_path)
    assert found == {"val": "images"}
    assert any("left aside, of no split: minival.json" in line for line in lines)


def write_yolo(root, *folders):
    for folder in folders:
        write_images(root / "images" / folder)
        (root / "labels" / folder).mkdir(parents=True)
        for name in NAMES:
            (root / "labels" / folder / name).with_suffix(".txt").write_text("0 .1 .1 .5 .1 .5 .5\n")
    (root / "classes.txt").write_text("crack\n")


def test_yolo_folders_in_any_case_and_what_is_left_aside(tmp_path):
    write_yolo(tmp_path, "Train", "validation", "fold2")
    found, lines = opened(tmp_path)
    assert found == {"train": "images/Train", "val": "images/validation"}
    assert any("left aside, of no split: images/fold2" in line for line in lines)


def test_a_yolo_split_without_labels_is_left_aside(tmp_path):
    write_yolo(tmp_path, "train", "val")
    write_images(tmp_path / "images" / "test")
    splits = "".join(f"{split}: images/{split}\n" for split in ("train", "val", "test"))
    (tmp_path / "data.yaml").write_text(f"names: [crack]\n{splits}")
    found, lines = opened(tmp_path)
    assert found == {"train": "images/train", "val": "images/val"}
    assert any("left aside, without labels: images/test" in line for line in lines)


def test_yolo_names_that_begin_at_1_are_refused(tmp_path):
    write_yolo(tmp_path, "train")
    (tmp_path / "classes.txt").write_text("1: crack\n2: dent\n")
    with pytest.raises(DataError, match=r"classes\.txt: its names are numbered from 1; expected 0, or names alone"):
        opened(tmp_path)


def test_label_maps_in_folders_of_any_case(tmp_path):
    for split in ("Train", "Val"):
        write_images(tmp_path / "images" / split)
        write_images(tmp_path / "masks" / split, value=1)
    (tmp_path / "classes.txt").write_text("background\ncrack\n")
    assert opened(tmp_path)[0] == {"train": "images/Train", "val": "images/Val"}


def test_own_names_of_a_voc_tree_do_not_say_where_labels_begin(tmp_path):
    write_images(tmp_path / "JPEGImages", mode="RGB", value=(9, 9, 9))
    (tmp_path / "SegmentationClass").mkdir()
    labels = np.arange(16 * 12, dtype=np.uint8).reshape(12, 16) % 2  # of three classes, one is not drawn
    for name in NAMES:
        Image.fromarray(labels).save(tmp_path / "SegmentationClass" / name)
    (tmp_path / "labels.txt").write_text("car\nperson\ndog\n")
    with pytest.raises(DataError, match="fit the 3 names in two ways: from 0, so that every pixel"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["3.5 mm screw", "2 euro"])
def test_a_number_that_is_a_part_of_the_only_name(tmp_path, name):
    (tmp_path / "classes.txt").write_text(f"{name}\n")
    assert read_class_names(tmp_path / "classes.txt")[:2] == ([name], None)


@pytest.mark.parametrize("text", ["id,name\n1,crack\n", "1: crack\n"])
def test_a_table_of_one_class(tmp_path, text):
    write_images(tmp_path / "images")
    write_images(tmp_path / "masks", value=1)
    (tmp_path / "classes.txt").write_text(text)
    options, _ = explicit(DataOptions(name="", format="auto", root=str(tmp_path), splits={}))
    assert [one.name for one in read_split(options, "train").images.categories] == ["crack"]


def test_two_yolo_files_that_say_the_same_are_one(tmp_path):
    root = EXPORTS["YOLO of Roboflow"](tmp_path / "shop")
    text = (root / "data.yaml").read_text()
    (root / "dataset.yaml").write_text(text)
    _, found = recognise(root)
    assert found.options["names"] == "data.yaml"
    assert found.notes[-1] == "left aside, as it says the same: dataset.yaml"
    (root / "dataset.yaml").write_text(text.replace("car", "truck"))
    with pytest.raises(DataError, match=r"2 YOLO files that differ: data.yaml, dataset.yaml; .* such as") as raised:
        recognise(root)
    given = shlex.split(str(raised.value).partition("such as data.yaml: ")[2])
    data = parse_command("train", given)[1].data
    assert (data.format, data.names, data["splits"]["train"]) == ("yolo", "data.yaml", ["train/images"])
