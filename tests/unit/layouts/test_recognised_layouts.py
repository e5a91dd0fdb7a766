"""Every layout is recognised by its files, and shows the same images, masks and absent categories as COCO's tree."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace

import pytest
from export_pictures import ALL, CATEGORIES, SPLITS, coco_content, expected, seen, write_json, write_pictures
from exports import EXPORTS, ONE_SPLIT

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli import prepare
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.errors import DataError
from sam3_hyperet.layouts.table import LAYOUTS, explicit, recognise


def auto(root, **changes) -> DataOptions:
    return DataOptions(**{"name": "", "format": "auto", "root": str(root), "splits": {}, "tune_images": 0} | changes)


def masks(found):
    return {name: instances for name, (instances, _) in found.items()}


@pytest.fixture(scope="module", params=EXPORTS)
def exported(request, tmp_path_factory):
    """The name of a layout and the folder of a set that has it."""
    return request.param, EXPORTS[request.param](tmp_path_factory.mktemp("export") / "shop")


def test_each_layout_shows_what_cocos_tree_shows(exported):
    layout, root = exported
    options, lines = explicit(auto(root))
    assert (options.format != "auto", options.name) == (True, "shop")
    assert lines[0].startswith(f"{root}: recognised as ")
    if layout in ONE_SPLIT:
        train, val = (seen(open_split(options, split).images) for split in ("train", "val"))
        assert masks(train) | masks(val) == masks(expected(pictures=ALL))
        assert len(val) == round(0.2 * len(ALL))
        return
    for split in options.splits:
        images = open_split(options, split).images
        found = seen(images)
        assert layout != "LVIS" or not images.adjusted
        assert masks(found) == masks(expected(split))
        for name, (_, absent) in found.items():  # LVIS's are those that it lists
            assert absent == expected(split)[name][1] or (layout == "LVIS" and len(absent) == 1)


def test_what_is_counted_in_more_images_than_a_split_has_is_said_so(tmp_path):
    options, _ = explicit(auto(EXPORTS["CVAT"](tmp_path / "shop")))
    held_out = open_split(options, "val").images
    notes = data_notes(held_out)
    assert notes[0].startswith(f"shop: {len(held_out)} of {len(ALL)} images, ")
    assert any(f"annotations by category, in all {len(ALL)} images: " in line for line in notes)


def test_splits_of_yolo_are_named_in_order_with_what_becomes_of_them(tmp_path):
    root = EXPORTS["YOLO"](tmp_path / "shop")
    for listed in (True, False):
        if not listed:
            (listing,) = root.glob("*.yaml")
            listing.unlink()
            (root / "classes.txt").write_text("\n".join(CATEGORIES))
        options, lines = explicit(auto(root))
        assert list(options.splits) == ["train", "tune", "val"]
        assert "three splits: the best step is chosen on val, the model is scored on test" in lines


def test_a_yolo_set_of_boxes_alone_is_learnt_as_boxes(tmp_path):
    root = EXPORTS["YOLO"](tmp_path / "shop")
    assert explicit(auto(root))[0].boxes == "drop"
    for file in (root / "labels").rglob("*.txt"):
        file.write_text("".join(f"{row[0]} 0.5 0.5 0.2 0.2\n" for row in file.read_text().splitlines()))
    options, lines = explicit(auto(root))
    assert options.boxes == "instances"
    assert any("label files looked at have boxes and no masks: boxes alone are learnt" in line for line in lines)
    assert open_split(options, "train").images.boxed


def test_data_sets_beside_each_other_are_refused_by_name(tmp_path):
    EXPORTS["LVIS"](tmp_path / "lvis")
    assert recognise(tmp_path)[0] == tmp_path / "lvis"
    EXPORTS["Roboflow"](tmp_path / "shop")
    with pytest.raises(DataError, match="2 data sets: LVIS in lvis, Roboflow, COCO format in shop; expected one of"):
        recognise(tmp_path)


def test_an_archive_is_named_as_what_has_to_be_unpacked(tmp_path):
    (tmp_path / "shop.zip").touch()
    with pytest.raises(DataError, match=r"no known layout of a data set; shop\.zip has to be unpacked first; found"):
        recognise(tmp_path)


def test_an_export_without_its_images_says_so(tmp_path):
    root = EXPORTS["CVAT"](tmp_path / "shop")
    shutil.rmtree(root / "images")
    with pytest.raises(
        DataError, match=r"images are not in .*shop: .*; expected them there or below: copy them, or export"
    ):
        open_split(explicit(auto(root))[0], "val")


@pytest.mark.parametrize("layout", ["ODinW", "RF100-VL"])
def test_boxes_alone_are_learnt_where_there_are_no_masks(layout, tmp_path):
    options, lines = explicit(auto(EXPORTS[layout](tmp_path / "shop")))
    assert options.boxes == "instances"
    assert "there are boxes and no masks: boxes alone are learnt and scored, and mask AP means nothing" in lines
    images = open_split(options, "train").images
    assert (images.boxed, images.rectangles) == (10, 0)
    assert "shop: 10 of 10 annotations are boxes without a mask (data.boxes=instances)" in "\n".join(data_notes(images))
    prompts = ConceptPrompts(images, 64, None)
    batch = host.collate([prompts[i] for i in range(3)])
    targets = batch.find_targets[0]
    assert targets.is_valid_segment.tolist() == [False] * len(targets.boxes)
    assert len(targets.boxes) == 5
    assert not targets.semantic_segments.any()  # so that the filled boxes are no target of the semantic map
    with pytest.raises(DataError, match=r"none of its 10 annotations has a mask.* or data\.boxes=instances, to learn"):
        open_split(replace(options, boxes="drop"), "train")


def test_an_option_that_is_given_is_kept_and_said(tmp_path):
    root = EXPORTS["COCO"](tmp_path / "shop")
    options, lines = explicit(auto(root, name="mine", splits={"val": ["val", "annotations/instances_val.json"]}))
    assert (options.name, list(options.splits)) == ("mine", ["val"])
    assert any(line.startswith("'data.splits={val: [") and " as given; the files say " in line for line in lines)
    assert explicit(options) == (options, [])


def test_a_folder_within_the_folder_is_found(tmp_path):
    EXPORTS["Roboflow"](tmp_path / "downloads" / "shop.v3i.coco")
    (tmp_path / "downloads" / "__MACOSX").mkdir()
    options, _ = explicit(auto(tmp_path / "downloads"))
    assert (options.root, options.name) == (str(tmp_path / "downloads" / "shop.v3i.coco"), "shop.v3i.coco")
    EXPORTS["CVAT"](tmp_path / "downloads" / "task_1")
    with pytest.raises(
        DataError, match=r"2 data sets: Roboflow, COCO format in shop.v3i.coco, CVAT, COCO format in task_1"
    ):
        explicit(auto(tmp_path / "downloads"))


def test_an_unknown_folder_is_refused_with_what_is_known(tmp_path):
    write_pictures(tmp_path / "photos", SPLITS["val"])
    (tmp_path / "annotations.json").write_text('{"images": 3}')
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(DataError) as refused:
        recognise(tmp_path)
    assert "found annotations.json, empty.json, photos/;" in str(refused.value)
    for layout in LAYOUTS:
        assert all(f"{name} ({tree})" in str(refused.value) for name, tree in layout.trees.items())
    with pytest.raises(DataError, match="nowhere: no such folder"):
        recognise(tmp_path / "nowhere")


def test_files_that_are_not_told_apart_are_refused_with_what_to_write(tmp_path):
    root = EXPORTS["SA-Co"](tmp_path / "shop")
    shutil.copy(root / "gold_shop_merged_a_release_test.json", root / "gold_shop_merged_b_release_test.json")
    with pytest.raises(
        DataError, match=r"2 COCO files for test: .*'data.splits={val: \[shop-images, gold_shop_merged_a"
    ):
        recognise(root)


def test_what_a_refusal_of_files_says_prepares_them(tmp_path):
    """Also in a folder with a space and with one whose name looks like a number; it is not taken for COCO itself."""
    root = tmp_path / "My Shop"
    for part in ("a", "b"):
        write_json(root / f"part_{part}.json", coco_content(SPLITS["train"]))
    write_pictures(root / "2024_10_05", SPLITS["train"])
    with pytest.raises(DataError, match="2 COCO files whose splits are not told") as refused:
        recognise(root)
    options = shlex.split(str(refused.value).partition("name them: ")[2])
    assert options[:2] == ["data=coco", 'data.name="My Shop"']
    manifest = prepare.main(options)
    assert json.loads(manifest.read_text())["data"] == "My Shop"


def test_what_is_left_aside_is_said(tmp_path):
    root = EXPORTS["COCO"](tmp_path / "shop")
    write_json(root / "annotations" / "instances_test.json", coco_content(SPLITS["val"]) | {"annotations": []})
    write_json(root / "annotations" / "instances_minival.json", coco_content(SPLITS["tune"]))
    write_json(root / "annotations" / "everything.json", coco_content(ALL))
    _, found = recognise(root)
    assert found.options["splits"] == {
        "train": ["train", "annotations/instances_train.json"],
        "val": ["val", "annotations/instances_val.json"],
    }
    assert sorted(found.notes) == [
        "left aside, of no split: annotations/everything.json, annotations/instances_minival.json",
        "left aside, without annotations: annotations/instances_test.json",
    ]


def test_images_that_are_not_there_are_said(tmp_path):
    write_json(tmp_path / "instances_train.json", coco_content(SPLITS["train"]))
    _, found = recognise(tmp_path)
    assert found.notes == (
        "5 of the first 5 images of instances_train.json (street 1.png, café.png, IMG_0003.PNG and 2 more) are not at "
        "their paths in ./; their names are looked for below it",
    )


def test_a_file_that_is_for_scores_by_its_name_is_said(tmp_path):
    write_json(tmp_path / "shop_test_v2.json", coco_content(SPLITS["val"]))
    write_pictures(tmp_path, SPLITS["val"])
    _, found = recognise(tmp_path)
    assert found.options["splits"] == {"val": [".", "shop_test_v2.json"]}
    assert found.notes == (
        "no training images: shop_test_v2.json is for scores by its name; to train on it, 'data.splits={train: [., "
        "shop_test_v2.json]}'",
    )


def test_files_without_annotations_are_refused(tmp_path):
    write_json(tmp_path / "test.json", coco_content(SPLITS["val"]) | {"annotations": []})
    write_pictures(tmp_path, SPLITS["val"])
    with pytest.raises(DataError, match=r"COCO files without any annotation: test\.json"):
        recognise(tmp_path)


def test_files_of_single_images_are_not_looked_at(tmp_path):
    root = EXPORTS["COCO, one file"](tmp_path / "shop")
    (root / "0006.json").write_text(json.dumps(coco_content(SPLITS["train"][:1])))
    assert explicit(auto(root))[0].splits == {"train": [".", "annotations.json"]}


@pytest.mark.parametrize(
    "name", ["instances_{}2017", "{}", "{}_annotations", "officeStuff_{}", "annotations{}", "shop-{}-v2"]
)
def test_a_split_is_told_by_its_word(name, tmp_path):
    names = {"train": name.format("Train"), "val": name.format("VALID")}
    for split, stem in names.items():
        write_json(tmp_path / f"{stem}.json", coco_content(SPLITS[split]))
    write_pictures(tmp_path / "photos", ALL)
    assert explicit(auto(tmp_path))[0].splits == {split: ["photos", f"{stem}.json"] for split, stem in names.items()}


@pytest.mark.parametrize(("folder", "name"), [("train", "train-data"), ("my set", "my set")])
def test_a_set_is_named_after_its_folder(tmp_path, folder, name):
    assert explicit(auto(EXPORTS["CVAT"](tmp_path / folder)))[0].name == name


def test_encoded_names_are_found_in_their_folder(tmp_path):
    content = coco_content(SPLITS["train"])
    for number, image in enumerate(content["images"]):
        image["file_name"] = f"images/my%20{number}.png"
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / f"images/my {number}.png").write_bytes(SPLITS["train"][number].data)
    write_json(tmp_path / "result.json", content)
    options, lines = explicit(auto(tmp_path))
    assert options.splits == {"train": ["images", "result.json"]}
    assert not any("nowhere" in line for line in lines)


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "it is empty"), (b'{"images": [{"id": 1', "it breaks off"), (b"<!doctype html>", "it is a web page")],
)
def test_a_damaged_file_of_a_split_is_named_and_not_passed_over(tmp_path, content, fault):
    root = EXPORTS["COCO"](tmp_path / "shop")
    (root / "annotations" / "instances_train.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"instances_train\.json: not a readable COCO file \({fault}.*one of train"):
        recognise(root)


def test_a_file_of_a_split_that_is_passed_over_is_named(tmp_path):
    root = EXPORTS["COCO"](tmp_path / "shop")
    (root / "annotations" / "instances_val.json").write_text('{"images": []}')
    assert any(
        note.startswith("passed over") and note.endswith("/instances_val.json") for note in recognise(root)[1].notes
    )
