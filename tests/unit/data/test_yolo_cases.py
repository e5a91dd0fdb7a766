"""YOLO folders as tools export them: which are recognised, what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import read_split
from sam3_hyperet.errors import UserError
from sam3_hyperet.layouts.table import explicit

ROWS = "0 .1 .1 .4 .1 .4 .5 .2 .5 .1 .4\n1 .5 .2 .8 .2 .8 .6 .5 .6\n"
NAMES = "names: [car, house]\n"
ROBOFLOW = "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['car', 'house']\nroboflow: {project: shop}\n"


def tree(root: Path, yaml: str = ROBOFLOW, rows: str = ROWS, suffix: str = ".jpg") -> None:
    for folder in ("train", "valid"):
        (root / folder / "images").mkdir(parents=True)
        (root / folder / "labels").mkdir()
        Image.new("RGB", (96, 64)).save(root / folder / f"images/a{suffix}")
        (root / folder / "labels/a.txt").write_bytes(rows.encode())
    (root / "data.yaml").write_text(yaml)


def label_studio(root: Path, folders: tuple[str, ...] = ("",)) -> None:
    """classes.txt and notes.json in place of a data.yaml."""
    for folder in folders:
        (root / "images" / folder).mkdir(parents=True)
        (root / "labels" / folder).mkdir(parents=True)
        Image.new("RGB", (96, 64)).save(root / "images" / folder / "a.jpg")
        (root / "labels" / folder / "a.txt").write_text(ROWS)
    (root / "classes.txt").write_text("car\nhouse\n")
    (root / "notes.json").write_text('{"categories": []}')


def made(*arguments, **keys):
    return lambda root: tree(root, *arguments, **keys)


READ = {
    "Roboflow's": tree,
    "a path of another machine": made(f"path: /content/drive/shop\ntrain: train/images\nval: valid/images\n{NAMES}"),
    "folders of another machine": made(f"train: /home/ann/shop/train/images\nval: valid/images\n{NAMES}"),
    "folders of Windows": made(f"train: C:\\shop\\train\\images\nval: C:\\shop\\valid\\images\n{NAMES}"),
    "lists of folders": made(f"train: [train/images]\nval: [valid/images]\n{NAMES}"),
    "names by index": made("train: train/images\nval: valid/images\nnames: {0: car, 1: house}\n"),
    "Windows' line ends": made(rows=ROWS.replace("\n", "\r\n")),
    "classes as floats": made(rows=ROWS.replace("1 .5", "1.0 .5")),
    "upper-case suffixes": made(suffix=".JPG"),
    "Label Studio's": label_studio,
    "X-AnyLabeling's": lambda root: label_studio(root, ("train", "val")),
}
REFUSED = {
    "boxes in pixels": (made(rows="0 30 30 20 20\n"), "a.txt: line 1 has the coordinate 30, expected fractions"),
    "a class too many": (made(rows="2 .1 .1 .4 .1 .4 .5\n"), "a.txt: line 1: the class 2 is none of the 2 names"),
    "pixels": (made(rows="0 10 10 40 10 40 30\n"), "a.txt: line 1 has the coordinate 10, expected fractions"),
    "commas": (made(rows=ROWS.replace(" ", ",")), "a.txt: line 1 is '0,.1"),
    "a track id": (made(rows="0 .1 .1 .4 .1 .4 .5 7\n"), "a.txt: line 1 has 7 numbers after the class"),
    "nc that is another": (made(ROBOFLOW.replace("nc: 2", "nc: 3")), "data.yaml: nc is 3, but it has 2 names"),
    "a folder that is not there": (made(f"train: images\n{NAMES}"), "data.yaml: train is images, which is not below"),
    "names that differ in case": (
        made("train: train/images\nnames: [sports_car, Sports Car]\n"),
        "data.yaml: name 1 is 'Sports Car', as another is",
    ),
    "names that are numbers": (made("train: train/images\nnames: [0, 1]\n"), "name 0 is 0, expected text"),
    "keypoints": (made(f"train: train/images\nkpt_shape: [17, 3]\n{NAMES}"), "its labels are keypoints"),
}


def opened(root):
    options, _ = explicit(DataOptions("", "auto", str(root), {}, tune_images=0))
    return read_split(options, "train").images


@pytest.mark.parametrize("kind", READ)
def test_exports_are_recognised_and_read(tmp_path, kind):
    READ[kind](tmp_path)
    images = opened(tmp_path)
    assert [category.name for category in images.categories] == ["car", "house"]
    assert [one.category_id for i in range(len(images)) for one in images.instances(i)] == [0, 1]
    assert not images.dropped


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_meaning_is_refused_by_file_and_line(tmp_path, kind):
    make, message = REFUSED[kind]
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        opened(tmp_path)
