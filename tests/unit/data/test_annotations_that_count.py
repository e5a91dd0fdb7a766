"""Which annotations count: what is dropped, what is repaired, and what is then known of a category."""

from __future__ import annotations

import pytest
from coco_files import SQUARE, annotation, content, rle
from pycocotools import mask as coco_mask

from sam3_hyperet.data.coco import read_coco, read_coco_images
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.errors import DataError

DEGENERATE = {
    "two points": ({"segmentation": [[1, 1, 5, 5]]}, "outline without a polygon of 3 points"),
    "odd length": ({"segmentation": [[1, 1, 5, 5, 9, 9, 3]]}, "outline without a polygon of 3 points"),
    "no polygon": ({"segmentation": []}, "box without a mask"),
    "empty polygon": ({"segmentation": [[]]}, "outline without a polygon of 3 points"),
    "one point thrice": ({"segmentation": [[5, 5, 5, 5, 5, 5]]}, "mask without a pixel"),
    "a sliver": ({"segmentation": [[5, 5, 5.01, 5, 5.01, 9]]}, "mask without a pixel"),
    "wholly outside": ({"segmentation": [[-9, 1, -5, 1, -5, 9, -9, 9]]}, "mask without a pixel"),
    "empty run lengths": ({"segmentation": rle(area=False)}, "mask without a pixel"),
    "null in place of an outline": ({"segmentation": None}, "box without a mask"),
    "neither box nor outline": ({"bbox": [], "segmentation": []}, "annotation without box and mask"),
    "null for both": ({"bbox": None, "segmentation": None}, "annotation without box and mask"),
}


@pytest.mark.parametrize("kind", DEGENERATE)
def test_degenerate_records_are_dropped_and_counted(write, kind):
    changes, reason = DEGENERATE[kind]
    value = content()
    value["annotations"].append(annotation(2, **changes))
    images = read_coco(*write(value))
    kept = images.instances(0)
    assert [one.id for one in kept] == [1]
    assert coco_mask.area(kept[0].rle) == 100
    assert images.dropped == {reason: 1}
    assert images.summary() == f"coco: 1 image, 2 categories; dropped 1 × {reason}"
    assert images.not_exhaustive(0) == ({kept[0].category_id} if reason == "box without a mask" else set())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"segmentation": [*SQUARE, [1, 1, 2, 2]]}, "outline with a polygon of fewer than 3 points"),
        (
            {"segmentation": [[2, 2, 12, 2, 12, 40, 2, 40]], "bbox": [2, 2, 10, 18]},
            "outline beyond the image's border, clipped",
        ),
        ({"bbox": [2, 2, 0, 10]}, "box without area, taken from the mask"),
        ({"bbox": []}, "box without area, taken from the mask"),
        ({"bbox": None}, "box without area, taken from the mask"),
        ({"bbox": [2, 2, 15, 15]}, "box that contradicts its mask, taken from the mask"),
        ({"bbox": [0.1, 0.1, 0.3, 0.5]}, "box that contradicts its mask, taken from the mask"),
        ({"bbox": [2, 2, 14, 12], "segmentation": rle()}, "box that contradicts its mask, taken from the mask"),
        ({"area": None}, "area that is no number of pixels, taken from the mask"),
        ({"area": 0}, "area that is no number of pixels, taken from the mask"),
        ({"area": "100"}, "area that is no number of pixels, taken from the mask"),
        ({"area": 10**9}, "area that is no number of pixels, taken from the mask"),
        ({"area": float("nan")}, "area that is no number of pixels, taken from the mask"),
    ],
)
def test_repaired_annotations_are_kept_and_counted(write, changes, reason):
    value = content()
    value["annotations"] = [annotation(**changes)]
    images = read_coco(*write(value))
    assert len(images.instances(0)) == 1
    assert images.adjusted == {reason: 1}
    assert f"repaired 1 × {reason}" in images.summary()


def test_a_file_whose_every_annotation_is_degenerate_is_an_error(write):
    value = content()
    value["annotations"] = [annotation(segmentation=[])]
    with pytest.raises(DataError, match="none of its 1 annotations has a mask"):
        read_coco(*write(value))


def test_box_and_area_are_the_file_s_where_they_can_be(write):
    value = content()
    value["annotations"] = [
        annotation(1, bbox=[2.4, 2.2, 9.7, 9.9], area=97.5),
        annotation(2, bbox=[2, 2, 16, 16], area=None),
        annotation(3),
    ]
    del value["annotations"][2]["bbox"]
    images = read_coco(*write(value))
    first, second, third = images.instances(0)
    assert (first.box, first.area) == ((2.4, 2.2, 9.7, 9.9), 97.5)
    assert (second.box, second.area) == (third.box, third.area) == ((2, 2, 10, 10), 100)
    assert images.adjusted.total() == 2  # a key that the file does not have is no repair


def test_of_a_category_whose_annotations_were_all_dropped_nothing_is_known_there(write):
    value = content()
    value["annotations"] += [annotation(2, category_id=5, segmentation=[]), annotation(3, segmentation=[])]
    assert read_coco(*write(value)).unlabelled(0) == {5}


def test_crowds_are_counted_and_may_be_read_as_instances(write):
    value = content()
    value["annotations"] += [annotation(2, iscrowd=1, category_id=5, segmentation=rle(), bbox=[3, 4, 14, 5])]
    images = read_coco(*write(value))
    assert images.crowds == 1
    assert "; 1 of 2 annotations are crowds" in images.summary()
    assert any("1 of 2 annotations are crowds (iscrowd: 1), of which nothing" in line for line in data_notes(images))
    images = read_coco(*write(value), crowds="instances")
    assert [one.crowd for one in images.instances(0)] == [False, False]
    assert images.adjusted == {"crowd, read as an instance": 1}


def test_a_category_without_annotation_is_named(write):
    assert read_coco(*write(content())).unannotated == {5}


def test_what_lvis_says_of_an_image_is_read(write):
    value = content()
    value["categories"].append({"id": 9, "name": "cow"})
    value["images"][0] |= {"neg_category_ids": [5], "not_exhaustive_category_ids": [3]}
    images = read_coco(*write(value))
    assert images.unlabelled(0) == {9}  # neither annotated nor said to be absent
    assert images.not_exhaustive(0) == {3}


def test_a_name_that_one_image_lacks_is_no_negative_of_images_that_say_nothing(write):
    value = content()
    value["categories"].append({"id": 9, "name": "cow"})
    value["images"] += [{**value["images"][0], "id": 8, "file_name": "b.png"}]
    value["images"][0]["neg_category_ids"] = [5]
    file, folder = write(value)
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    images = read_coco(file, folder)
    assert (images.unannotated, images.never_absent) == ({5, 9}, {9})
    assert [images.unlabelled(i) for i in range(2)] == [{9}, {5}]


def test_a_supercategory_that_is_a_category_is_the_parent(write):
    value = content()
    value["categories"] = [
        {"id": 0, "name": "animal", "supercategory": "none"},
        {"id": 3, "name": "cat", "supercategory": "animal"},
        {"id": 5, "name": "person", "supercategory": "person"},
    ]
    animal, cat, person = read_coco(*write(value)).categories
    assert (animal.parents, cat.parents, cat.supercategory) == ((), (0,), "")
    assert (person.supercategory, len(person.parents)) == ("person", 1)  # as COCO has it


def rooted(name, **changes):
    """A file as Roboflow exports it, with a root category of this name."""
    value = content()
    of_root = {"id": 0, "name": name, "supercategory": "none", **changes}
    value["categories"] = [of_root, *({**one, "supercategory": name} for one in value["categories"])]
    return value


def test_roboflows_root_is_no_category(write):
    images = read_coco(*write(rooted("My_Shop")))
    assert [(one.id, one.parents, one.supercategory) for one in images.categories] == [(3, (), ""), (5, (), "")]
    assert [line for line in images.remarks if "'My Shop' is left out" in line] == list(images.remarks)
    assert images.left_out == {"my shop"}  # so it is not asked for as absent either
    first = images.categories[0].name
    again = read_coco(*write(rooted(first)))  # a project of the name of a class: the class is above no other
    assert [(one.id, one.parents, one.supercategory) for one in again.categories] == [(3, (), ""), (5, (), "")]


def test_a_category_that_may_be_more_than_a_root_stays(write):
    value = rooted("shop")
    value["annotations"][0]["category_id"] = "0"
    for kept in (rooted("shop", id=9), rooted("shop", supercategory="goods"), value):
        assert len(read_coco(*write(kept)).categories) == 3
    value = rooted("shop")
    value["categories"].append({"id": 8, "name": "tree", "supercategory": "plant"})
    assert len(read_coco(*write(value)).categories) == 4


def test_images_to_predict_have_no_root_either(write):
    value = rooted("shop")
    del value["annotations"]
    found = read_coco_images(*write(value))
    assert [one.id for one in found.categories] == [3, 5]
    assert "'shop' is left out" in found.remarks[0]


@pytest.mark.parametrize("name", ["traffic_light", " traffic light", "traffic_light_"])
def test_underscores_are_spaces(write, name):
    value = content()
    value["categories"][0]["name"] = name
    assert read_coco(*write(value)).categories[0].name == "traffic light"


@pytest.mark.parametrize(("file_name", "on_disk"), [("sub\\a.png", "sub/a.png"), ("e\u0301.png", "\xe9.png")])
def test_names_of_other_systems_are_found(write, tmp_path, file_name, on_disk):
    value = content()
    value["images"][0]["file_name"] = file_name
    (tmp_path / "images/sub").mkdir()
    (tmp_path / "images/a.png").rename(tmp_path / "images" / on_disk)
    images = read_coco(*write(value))
    assert images.image(0).path == tmp_path / "images" / on_disk
    assert images.load_image(0).size == (30, 20)
