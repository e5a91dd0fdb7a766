"""Label maps as tools export them: recognised, and read as the same pictures in COCO's tree."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from export_pictures import ALL, CATEGORIES, SPLITS, expected, rle, seen
from mask_exports import COLORS, MASKS, label_map
from PIL import Image

from sam3_hyperet.data.colors import read_colors
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split, read_split
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import INSTANCES, open_task
from sam3_hyperet.layouts.masks import VOC_NAMES, voc_colors
from sam3_hyperet.layouts.table import explicit, recognise
from sam3_hyperet.masks import decode


def auto(root, **options) -> DataOptions:
    values = {"name": "", "format": "auto", "root": str(root), "splits": {}, "tune_images": 0} | options
    return explicit(DataOptions(**values))[0]


def regions(split):
    """What a reader of label maps is to see of a split: the classes of each picture, and their masks' union."""
    found = {}
    for picture in SPLITS[split]:
        masks = {}
        for category, *box in picture.boxes:
            masks[category] = masks.get(category, 0) + decode(rle(box)).astype(int)
        found[picture.name] = masks
    return found


@pytest.fixture(scope="module", params=MASKS)
def exported(request, tmp_path_factory):
    return request.param, MASKS[request.param](tmp_path_factory.mktemp("masks") / "shop")


def test_masks_are_recognised_and_read_as_in_coco(exported):
    layout, root = exported
    options = auto(root)
    assert options.format == "label_maps"
    renamed = {"person": "house"} if layout == "VOC" else {}
    for split in options.splits:
        images = read_split(options, split).images
        assert "background" in {category.name for category in images.categories}
        names = {category.id: renamed.get(category.name, category.name) for category in images.categories}
        by_bytes = {picture.data: picture.name for picture in ALL}
        truth = {}
        for ours in SPLITS if "default" in str(options.splits) else [split]:
            truth |= regions(ours)
        assert len(images) == len(truth)
        for i in range(len(images)):
            name, there = by_bytes[images.image(i).path.read_bytes()], {}
            for one in images.instances(i):
                category = names[one.category_id]
                there[category] = there.get(category, 0) + decode(one.rle).astype(int)
            assert there.keys() == truth[name].keys()
            for category, mask in there.items():
                assert (mask == truth[name][category]).all()
            assert names[images.background] not in there


def test_vocs_folder_in_the_folder_of_its_archive_is_found(tmp_path):
    root = MASKS["VOC"](tmp_path / "shop" / "VOCdevkit" / "VOC2012")
    assert recognise(tmp_path / "shop")[0] == root


def test_objects_are_instances_with_ap(tmp_path):
    for layout in ("VOC", "CVAT, segmentation masks"):
        options = auto(MASKS[layout](tmp_path / layout))
        assert options.objects == "SegmentationObject"
        split = open_split(options, "val" if layout == "VOC" else "train")
        evaluators = open_task(split, Protocol(granularity=False)).evaluators(None)
        assert {INSTANCES, "label_maps"} <= evaluators.keys()
        assert "background" not in open_task(split, Protocol(granularity=False)).vocabulary
    opened = read_split(options, "train").images
    assert seen(opened) == expected(*SPLITS)
    assert len(opened.files(0)) == 3


def test_what_is_printed_of_colours(tmp_path):
    images = read_split(auto(MASKS["CamVid, coloured"](tmp_path / "shop")), "val").images
    notes = "\n".join(data_notes(images))
    assert "colour, class and fraction of the pixels, in all label maps: [0, 0, 0] background" in notes
    assert "[10, 20, 30] house" in notes


def test_unknown_colours_are_refused_with_the_first_and_their_number(tmp_path):
    root = MASKS["CamVid, coloured"](tmp_path / "shop")
    file = root / "test_labels" / "0009_L.png"
    pixels = np.asarray(Image.open(file)).copy()
    pixels[:8, :8] = (1, 2, 3)
    Image.fromarray(pixels).save(file)
    message = r"0009_L.png: 1.04% of its pixels have 1 colours that are not in .*class_dict.csv, the first \[1, 2, 3\]$"
    with pytest.raises(DataError, match=message):
        read_split(auto(root), "val")
    Image.fromarray(pixels).resize((48, 32)).resize((96, 64), Image.Resampling.BICUBIC).save(file)
    with pytest.raises(DataError, match="so many come from JPEG, smoothing or resizing"):
        read_split(auto(root), "val")


def test_masks_saved_as_jpeg_are_refused(tmp_path):
    root = MASKS["CamVid, coloured"](tmp_path / "shop")
    for file in (root / "test_labels").rglob("*.png"):
        Image.open(file).save(file, "jpeg")
    with pytest.raises(DataError, match="it is JPEG, which changes labels at edges"):
        read_split(auto(root), "val")


def test_voc_without_a_list_of_labels_has_vocs_names_and_colours(tmp_path):
    assert voc_colors(16)[1::14] == [(128, 0, 0), (192, 128, 128)]
    root = MASKS["VOC"](tmp_path / "shop")
    assert auto(root).names == VOC_NAMES
    for file in (root / "SegmentationClass").rglob("*.png"):
        Image.open(file).convert("RGB").save(file)
    options = auto(root)
    assert options.colors["person"] == (192, 128, 128)
    images = read_split(options, "val").images
    assert (images.label_map(0)[:2, :2] == -1).all()  # the border


def test_the_values_of_label_maps_decide_as_they_do_without_auto(tmp_path):
    root = MASKS["label maps"](tmp_path / "shop")
    (root / "classes.txt").write_text("\n".join(CATEGORIES) + "\n")
    with pytest.raises(DataError, match=r"values 0 to 3, for 3 names; expected 'data.names=.*; or data.ignore=0"):
        open_split(auto(root), "val")
    images = open_split(auto(root, ignore=0), "val").images
    assert {c.name for c in images.categories} == set(CATEGORIES)


def coloured(file):
    grey = Image.open(file).convert("L")
    Image.merge("RGB", (grey, grey, grey.point(lambda value: 255 - value))).save(file)


def test_brush_masks_are_refused(tmp_path):
    (tmp_path / "task-1-annotation-2-by-1-tag-car-0.png").write_bytes(b"")
    with pytest.raises(DataError, match="Label Studio's brush masks"):
        auto(tmp_path)


def test_masks_without_names_are_told_and_named_by_an_option(tmp_path):
    root = MASKS["label maps"](tmp_path / "shop")
    (root / "classes.txt").unlink()
    options, lines = explicit(DataOptions(name="", format="auto", root=str(root), splits={}))
    assert "no file such as classes.txt names the classes of masks/train/, so that data.names= has to" in lines
    with pytest.raises(DataError, match=r"nothing names the classes: .*found labels 0 75.48%, 1 6.16%"):
        read_split(options, "val")
    names = ("background", *CATEGORIES)
    assert len(read_split(auto(root, names=names), "val").images) == 3
    for file in (root / "masks").rglob("*.png"):
        Image.fromarray((np.asarray(Image.open(file)) > 0).astype(np.uint8) * 255).save(file)
    with pytest.raises(DataError, match=r"if 255 is a car: 'data\.colors=.background: 0, car: 255"):
        read_split(auto(root), "val")
    images = read_split(auto(root, colors={"thing": 255}), "val").images
    assert [c.name for c in images.categories] == ["background", "thing"]
    assert "data.colors lists no background, so black is read as it" in data_notes(images)[1]


def test_names_may_lie_beside_the_folders_of_a_split(tmp_path):
    root = MASKS["label maps"](tmp_path / "shop")
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (root / split).mkdir(exist_ok=True)
            (root / kind / split).rename(root / split / kind)
    (root / "classes.txt").rename(root / "train" / "classes.txt")
    options = auto(root)
    assert options.names == "train/classes.txt"
    assert len(read_split(options, "val").images) == 3


def test_coloured_masks_without_a_table_are_told(tmp_path):
    root = MASKS["CamVid, coloured"](tmp_path / "shop")
    (root / "class_dict.csv").unlink()
    options, lines = explicit(DataOptions(name="", format="auto", root=str(root), splits={}))
    assert any("no file such as labelmap.txt or class_dict.csv names the classes" in line for line in lines)
    with pytest.raises(DataError, match=r"nothing names the classes.*found RGB pixels"):
        read_split(options, "val")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("label_colors.txt", "0 0 0 background\n128 0 0\tcar\n0 128 0 dog\n10 20 30 house\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\ncar:128,0,0::\ndog:0,128,0::\nhouse:10,20,30::\n"),
        ("class_dict.csv", "r,g,b,name\n128,0,0,car\n0,128,0,dog\n10,20,30,house\n"),
        ("obj_class_to_machine_color.json", '{"car": [128, 0, 0], "dog": "#008000", "house": [10, 20, 30]}'),
    ],
)
def test_tables_of_colours(name, content, tmp_path):
    root = MASKS["CamVid, coloured"](tmp_path / "shop")
    (root / "class_dict.csv").unlink()
    (root / name).write_text(content)
    options = auto(root)
    assert options.colors == name
    images = read_split(options, "val").images
    assert (images.label_map(0) == label_map(SPLITS["val"][0])).all()


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        ({"car": [1, 2]}, r"the colour of 'car' is \[1, 2\], expected \[red, green, blue\], 0 to 255, or #rrggbb"),
        ({"car": 300}, "the colour of 'car' is 300"),
        ({"car": [1, 2, 3], "dog": [1, 2, 3]}, r"'car' and 'dog' have the same colour \[1, 2, 3\]"),
        ({"car": "red"}, "the colour of 'car' is 'red'"),
    ],
)
def test_wrong_tables_are_errors(colors, message):
    with pytest.raises(DataError, match=message):
        read_colors(colors)


def test_wrong_files_of_colours_are_errors(tmp_path):
    (tmp_path / "labelmap.txt").write_text("car\n")
    with pytest.raises(DataError, match="its line 1 without a comment is 'car', expected name:red,green,blue::"):
        read_colors(tmp_path / "labelmap.txt")


def test_cvat_without_images_is_refused(tmp_path):
    root = MASKS["CVAT, segmentation masks"](tmp_path / "shop")
    shutil.rmtree(root / "JPEGImages")
    with pytest.raises(DataError, match="no folder of images; export with images"):
        auto(root)


def test_benchmarks_are_recognised(shared_data, tmp_path):
    ade = auto(shared_data / "ADEChallengeData2016")
    assert (ade.format, ade.splits) == ("ade20k", {"train": "training", "val": "validation"})
    camvid = auto(shared_data / "camvid")
    assert camvid.splits["tune"] == ["val", "valannot"]
    assert camvid.names == "classes.txt"
    for folder in ("leftImg8bit/val/aachen", "gtFine/val/aachen"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (4, 3)).save(tmp_path / "leftImg8bit/val/aachen/a_leftImg8bit.png")
    label = tmp_path / "gtFine/val/aachen/a_gtFine_labelIds.png"
    Image.new("L", (4, 3)).save(label)
    with pytest.raises(DataError, match="prepare data=cityscapes"):
        auto(tmp_path)
    label.rename(label.with_name("a_gtFine_labelTrainIds.png"))
    assert len(open_split(auto(tmp_path), "val").images) == 1


def test_colours_of_the_options(tmp_path):
    root = MASKS["CamVid, coloured"](tmp_path / "shop")
    colors = {name: list(color) for name, color in COLORS.items()}
    options = DataOptions(
        name="s",
        format="label_maps",
        root=str(root),
        splits={"val": ["test", "test_labels"]},
        colors=colors,
        label_ending="_L.png",
    )
    images = read_split(options, "val").images
    assert [c.name for c in images.categories] == list(COLORS)
    assert (images.label_map(0) == label_map(SPLITS["val"][0])).all()
    for file in (root / "test_labels").rglob("*.png"):
        Image.fromarray(label_map(SPLITS["val"][0]) * np.uint8(50)).save(file)
    grey = {"background": 0, "car": 50, "dog": 100, "house": 150}
    changed = DataOptions(**{**vars(options), "colors": grey})
    assert (read_split(changed, "val").images.label_map(0) == label_map(SPLITS["val"][0])).all()
