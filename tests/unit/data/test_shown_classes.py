"""The classes that label maps show: those of their masks, read once, whatever is asked of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.data import label_maps
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.label_maps import read_label_maps
from sam3_hyperet.data.notes import prompt_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_run, prompt_sampler
from sam3_hyperet.errors import DataError

NAMES = ("background", "sky", "road", "car")
COLORS = {"background": 0, "sky": [9, 9, 200], "road": [90, 90, 90], "car": [200, 0, 0]}


@pytest.fixture
def root(tmp_path):
    """Twelve images; each shows the background, two values of no class, sky, and road or a car."""
    for folder in ("images", "labels", "objects", "colored"):
        (tmp_path / folder).mkdir()
    for n in range(12):
        labels = np.zeros((20, 30), np.uint8)
        labels[:5], labels[5:9], labels[9:11, :9] = 1, 2 + n % 2, 255
        Image.new("RGB", (30, 20), (n, n, n)).save(tmp_path / "images" / f"{n}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{n}.png")
        objects = np.where(labels == 1, 0, np.arange(30) // 10 + 1).astype(np.uint8)
        Image.fromarray(objects).convert("RGB").save(tmp_path / "objects" / f"{n}.png")
        palette = np.array([[0, 0, 0], [9, 9, 200], [90, 90, 90], [200, 0, 0], [224, 224, 192]], np.uint8)
        Image.fromarray(palette[labels.clip(max=4)]).save(tmp_path / "colored" / f"{n}.png")
    return tmp_path


def options(root, **more):
    plain = {"name": "street", "format": "label_maps", "root": str(root), "names": NAMES}
    return DataOptions(**plain | {"splits": {"train": ["images", "labels"]}, "ignore": 255} | more)


def of_classes(root):
    return read_label_maps(root / "images", root / "labels", NAMES)


def of_objects(root):
    return read_label_maps(root / "images", root / "labels", NAMES, objects=root / "objects")


def of_colors(root):
    return read_label_maps(root / "images", root / "colored", colors=COLORS)


@pytest.mark.parametrize(("read", "expected"), [(of_classes, {1, 2}), (of_objects, {2}), (of_colors, {1, 2})])
def test_they_are_those_of_the_masks_and_no_mask_is_made(root, monkeypatch, read, expected):
    images = read(root)
    cars = {3 if one == 2 else one for one in expected}
    assert [AnnotatedImages.present(images, i) for i in (0, 1)] == [expected, cars]
    expected = [AnnotatedImages.present(images, i) for i in range(12)]
    monkeypatch.setattr(label_maps, "encode_regions", lambda labels: pytest.fail("made masks"))
    assert [images.present(i) for i in range(12)] == expected
    assert images.present(-1) == expected[-1]
    assert images.label_map(0).dtype == np.int32


def test_a_label_of_no_class_is_named(root):
    images = of_classes(root)
    Image.fromarray(np.full((20, 30), 7, np.uint8)).save(root / "labels" / "0.png")
    with pytest.raises(DataError) as refused:
        images.label_map(0)
    with pytest.raises(DataError) as also:
        images.present(0)
    assert str(also.value) == str(refused.value)


def test_few_shots_read_each_map_twice_once_for_its_values(root, monkeypatch):
    read, found = label_maps.read_label_values, []
    monkeypatch.setattr(label_maps, "read_label_values", lambda path: found.append(path.name) or read(path))
    monkeypatch.setattr(label_maps, "encode_regions", lambda labels: pytest.fail("made masks"))
    of_run = open_run(options(root, shots=2, tune_images=3), tune=True, evaluate=True)
    assert 2 <= len(of_run.training) <= 4
    assert len(of_run.tuning.images) == 3
    prompt_notes(of_run.training, prompt_sampler(options(root), of_run.training))
    assert max(map(found.count, found)) == 2
