"""Trees of label maps that people have: which names and folders are recognised, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.data.finding import walk
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import read_split
from sam3_hyperet.errors import DataError
from sam3_hyperet.layouts import masks
from sam3_hyperet.layouts.masks import recognise_masks, voc_colors
from sam3_hyperet.layouts.table import explicit

VALUES = np.zeros((32, 48), np.uint8)
VALUES[8:16, 4:24], VALUES[20:30, 20:40] = 1, 2


def write(root: Path, images: str, maps: str, label=lambda image: image) -> None:
    """Two images and their label maps, in folders below root."""
    for n in (0, 1):
        for folder in (images, maps):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 32), (n, 50, 90)).save(root / images / f"{n}.jpg")
        label(Image.fromarray(VALUES)).save(root / maps / f"{n}.png")


def palette(image):
    found = Image.frombytes("P", image.size, image.tobytes())
    found.putpalette([value for color in voc_colors(256) for value in color])
    return found


def mmsegmentation(root):
    for split in ("train", "val"):
        write(root, f"img_dir/{split}", f"ann_dir/{split}")
    (root / "classes.txt").write_text("background\ncar\nhouse\n")


def labelme(root, folder="SegmentationClass"):
    write(root, "JPEGImages", folder, palette)
    (root / "class_names.txt").write_text("_background_\ncar\nhouse\n")


def two_folders(root, label=lambda image: image):
    write(root, "images", "masks", label)
    (root / "classes.txt").write_text("background\ncar\nhouse\n")


def test_no_folder_is_listed_twice(tmp_path, monkeypatch):
    """Of a YOLO tree, whose folders of texts fit many names, those of images are listed for no map."""
    walked = []
    monkeypatch.setattr(masks, "walk", lambda folder: walked.append(folder) or walk(folder))
    two_folders(tmp_path / "maps")
    assert len(recognise_masks(tmp_path / "maps")) == 1
    assert len(set(walked)) >= len(walked) - 3  # what is found is looked at again
    walked.clear()
    for split in ("train", "val"):
        write(tmp_path / "yolo", f"images/{split}", f"labels/{split}")
        for path in (tmp_path / "yolo" / "labels" / split).iterdir():
            path.rename(path.with_suffix(".txt"))
    assert recognise_masks(tmp_path / "yolo") == []
    assert not any("images" in folder.parts for folder in walked)
    assert len(set(walked)) == len(walked)


TREES = {
    "MMSegmentation's": mmsegmentation,
    "labelme's": labelme,
    "labelme's, of older versions": lambda root: labelme(root, "SegmentationClassPNG"),
    "two folders": two_folders,
    "label maps of three equal channels": lambda root: two_folders(root, lambda image: image.convert("RGB")),
    "label maps of four channels": lambda root: two_folders(root, lambda image: image.convert("RGBA")),
    "label maps of grey and alpha": lambda root: two_folders(root, lambda image: image.convert("LA")),
}


@pytest.mark.parametrize("tree", TREES)
def test_trees_are_recognised_and_read(tmp_path, tree):
    TREES[tree](tmp_path)
    options, _ = explicit(DataOptions("", "auto", str(tmp_path), {}, tune_images=0))
    images = read_split(options, "train").images
    names = {category.id: category.name for category in images.categories}
    assert len(images) == 2
    assert {names[one.category_id] for i in (0, 1) for one in images.instances(i)} >= {"car", "house"}
    assert set(names.values()) == {"background", "car", "house"}


def test_names_of_voc_are_a_guess_and_said(tmp_path):
    write(tmp_path, "JPEGImages", "SegmentationClass", palette)
    _, lines = explicit(DataOptions("", "auto", str(tmp_path), {}))
    assert any(line.startswith("names: PASCAL VOC's own, as no file names the classes") for line in lines)


def test_masks_of_0_and_255_are_refused_with_what_to_say(tmp_path):
    two_folders(tmp_path, lambda image: image.point(lambda value: 255 * bool(value)))
    (tmp_path / "classes.txt").write_text("background\ntrachea\n")
    options, _ = explicit(DataOptions("", "auto", str(tmp_path), {}, tune_images=0))
    with pytest.raises(DataError, match=r"say 'data.colors=\{background: 0, trachea: 255\}'"):
        read_split(options, "train")
    said = {"colors": {"background": 0, "trachea": 255}}
    options, _ = explicit(DataOptions("", "auto", str(tmp_path), {}, tune_images=0, **said))
    images = read_split(options, "train").images
    names = {category.id: category.name for category in images.categories}
    assert {names[one.category_id] for one in images.instances(0)} >= {"trachea"}
