"""Instances in Ultralytics' format: the same as in COCO's, and what is refused, dropped and said."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from export_pictures import expected, seen
from exports import EXPORTS
from PIL import Image

from sam3_hyperet.data import yolo
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.data.yolo import label_file, read_yolo, read_yolo_file
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import INSTANCES, open_task
from sam3_hyperet.layouts.table import explicit
from sam3_hyperet.masks import area, decode

SQUARE = "0.2 0.2 0.6 0.2 0.6 0.8 0.2 0.8"


@pytest.fixture
def write(tmp_path):
    """Writes the label file of one 40x30 picture of two; returns what `read_yolo` takes."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "labels" / "b.txt").write_text(f"1 {SQUARE}\n")

    def write(text):
        (tmp_path / "labels" / "a.txt").write_text(text)
        return tmp_path, ["images"], ["car", "traffic_light"]

    return write


@pytest.mark.parametrize("layout", ["YOLO", "YOLO of Roboflow", "YOLO of CVAT", "YOLO of a CVAT project"])
def test_an_export_is_recognised_and_read_as_in_coco(layout, tmp_path):
    root = EXPORTS[layout](tmp_path / "shop")
    options, _ = explicit(DataOptions(name="", format="auto", root=str(root), splits={}, tune_images=0))
    assert options.format == "yolo"
    for split in options.splits:
        opened = open_split(options, split)
        assert seen(opened.images) == expected(split)
    assert INSTANCES in open_task(opened, Protocol(granularity=False)).evaluators(None)
    assert len(opened.images.files(0)) == 2


def test_what_is_there_is_kept_dropped_and_said(write, tmp_path):
    rows = [
        f"0 {SQUARE}",
        f"0 {SQUARE}",
        "0 0.5 0.5 0.2 0.2",
        "1 0.1 0.1 0.1 0.1 0.1 0.1",
        "1",
        "1 0.5 0.5",
        "",
        "0 -0.005 0 1.009 0 1 1",
    ]
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "none.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "empty.png")
    (tmp_path / "labels" / "empty.txt").write_text("\n")
    (tmp_path / "labels" / "stray.txt").write_text(f"0 {SQUARE}")
    (tmp_path / "labels" / "classes.txt").write_text("car\n")
    images = read_yolo(*write("\n".join(rows)))
    assert [len(images.instances(i)) for i in range(4)] == [2, 1, 0, 0]
    assert images.dropped == {
        "row that is in the file twice": 1,
        "box without a mask": 1,
        "mask without a pixel": 1,
        "outline without a polygon of 3 points": 2,
    }
    assert images.unlabelled(0) == {1}
    assert not images.unlabelled(2)
    assert [c.name for c in images.categories] == ["car", "traffic light"]
    notes = "\n".join(data_notes(images))
    assert "1 of 4 images have an empty label file and 1 have none: they show nothing" in notes
    assert re.search("warning: 1 label file without an image .*stray.txt; images without .*none.png; expected", notes)


def test_labels_are_found_in_either_unicode_form(write, tmp_path):
    root, *options = write(f"0 {SQUARE}")
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "images" / name).rename(tmp_path / "images" / f"\u00e9{name}")
        label = tmp_path / "labels" / name.replace("jpg", "txt")
        label.rename(label.with_name(f"e\u0301{label.name}"))
    images = read_yolo(root, *options)
    assert [len(images.instances(i)) for i in range(2)] == [1, 1]
    assert images.files(0)[1].is_file()
    assert not images.remarks


def test_images_in_formats_that_are_not_read_are_counted(write, tmp_path):
    root, *options = write(f"0 {SQUARE}")
    for name in ("c.JP2", "d.avif"):
        (tmp_path / "images" / name).touch()
    (remark,) = read_yolo(root, *options).remarks
    assert re.search("warning: not read: 2 images in another format, such as .*c.JP2; expected files ending", remark)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "images" / name).unlink()
    with pytest.raises(DataError, match="no images in this folder; not read: 2 images in another format"):
        read_yolo(root, *options)


WRONG = {
    "no class": (f"2 {SQUARE}", r"a.txt: line 1: the class 2 is none of the 2 names' indices, 0 to 1$"),
    "half a class": (f"0.5 {SQUARE}", "the class 0.5"),
    "words": ("car 0.1 0.2", "line 1 is 'car 0.1 0.2', expected a class index and numbers"),
    "a confidence": (f"0 {SQUARE} 0.93", "9 numbers after the class, expected pairs x y; is the last one a confidence"),
    "pixels": ("0 8 6 24 6 24 24", "the coordinate 8, expected fractions of the image"),
    "not finite": ("0 nan 0.1 0.2 0.2 0.3 0.4", "the coordinate nan"),
    "boxes alone": ("0 0.5 0.5 0.2 0.2", "none of its 1 annotations has a mask.*box without a mask"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_rows_are_errors(kind, write, tmp_path):
    text, message = WRONG[kind]
    arguments = write(text)
    if kind == "boxes alone":
        (tmp_path / "labels" / "b.txt").unlink()
    with pytest.raises(DataError, match=message):
        read_yolo(*arguments)


YAML = {
    "no names": ("train: images", "names is None, expected the class names"),
    "another number": ("names: [car]\nnc: 2", "nc is 2, but it has 1 names"),
    "no, as YAML reads it": ("names: [yes, no]", "name 0 is True, expected text; put it in quotes"),
    "keypoints": ("names: [car]\nkpt_shape: [17, 3]", "keypoints; expected polygons"),
    "twice": ("names: {0: car, 1: car}", "name 1 is 'car', as another is"),
    "no mapping": ("- car", r"found \['car'\]"),
    "broken": ("names: [car", "not readable as YAML"),
}


@pytest.mark.parametrize("kind", YAML)
def test_wrong_yaml_is_an_error(kind, tmp_path):
    text, message = YAML[kind]
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=rf"data.yaml: .*{message}"):
        read_yolo_file(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/d/images/val/a.b.jpg", "/d/labels/val/a.b.txt"),
        ("/images/x/images/images/a.PNG", "/images/x/images/labels/a.txt"),
        ("images/a.jpg", "labels/a.txt"),
        ("/d/my images/a.jpg", "/d/my images/a.txt"),
        ("/d/x/images", "/d/x/images.txt"),
    ],
)
def test_labels_lie_where_the_last_folder_images_is_replaced(image, label):
    assert label_file(image) == label_file(Path(image)) == label


def test_label_files_are_read_some_at_a_time_in_their_order(write, tmp_path, monkeypatch):
    monkeypatch.setattr(yolo, "_AHEAD", 2)
    arguments = write(f"0 {SQUARE}")
    for n in range(7):
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / f"c{n}.png")
        (tmp_path / "labels" / f"c{n}.txt").write_text(f"{n % 2} {SQUARE}\n" if n != 3 else "")
    images = read_yolo(*arguments)
    shown = [[one.category_id for one in images.instances(i)] for i in range(9)]
    assert shown == [[0], [1], [0], [1], [0], [], [0], [1], [0]]
    assert [path.name for path in images.files(5)] == ["c3.png", "c3.txt"]


def test_several_parts_in_one_outline_as_ultralytics_joins_them(write):
    """Its converter joins parts by a bridge without width, there and back."""
    left, right = [(4, 4), (14, 4), (14, 20), (4, 20)], [(24, 8), (36, 8), (36, 26), (24, 26)]
    joined = [left[1], left[2], left[3], left[0], left[1], right[0], right[1], right[2], right[3], right[0], left[1]]
    row = " ".join(f"{x / 40} {y / 30}" for x, y in joined)
    (one,) = read_yolo(*write(f"0 {row}")).instances(0)
    both = np.zeros((30, 40), np.uint8)
    both[4:20, 4:14] = both[8:26, 24:36] = 1
    assert abs(int(area(one.rle)) - int(both.sum())) <= 20
    assert (decode(one.rle) & both).sum() == both.sum()


def test_polygons_are_of_the_image_as_it_is_seen(write, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.jpg", exif=exif)
    root, sources, names = write(f"0 {SQUARE}")
    options = DataOptions(name="s", format="yolo", root=str(root), splits={"val": sources[0]}, names=tuple(names))
    images = open_split(options, "val").images
    assert (images.image(0).width, images.image(0).height) == (30, 40)
    assert images.load_image(0).size == (30, 40)
    assert "turned by it" in data_notes(images)[-1]
