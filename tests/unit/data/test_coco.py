"""COCO instances: the real files mask for mask, and every kind of wrong record."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from coco_files import annotation, content, rle
from PIL import Image
from pycocotools.coco import COCO

from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import decode


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own decoder
@pytest.mark.parametrize(("split", "count", "crowds"), [("train2017", 470, 5), ("val2017", 382, 5)])
def test_real_annotations_agree_with_pycocotools(shared_data, split, count, crowds):
    path = shared_data / "coco" / "annotations" / f"instances_{split}.json"
    images = read_coco(path, shared_data / "coco" / split)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(path))
    assert (len(images), len(images.categories)) == (50, 80)
    assert images.categories[-1].id == 90
    assert not images.dropped
    found = [(images.image(i), one) for i in range(len(images)) for one in images.instances(i)]
    assert len(found) == count
    assert sum(one.crowd for _, one in found) == crowds
    for record, one in found:
        expected = reference.anns[one.id]
        assert (expected["image_id"], expected["category_id"]) == (record.image_id, one.category_id)
        assert np.array_equal(decode(one.rle), reference.annToMask(expected))
    assert all(images.load_image(i).mode == "RGB" for i in range(len(images)))
    assert images.label_map(0) is None


def test_run_lengths_of_both_kinds_are_the_same_mask(write):
    value = content()
    value["annotations"] = [
        annotation(1, segmentation=rle(), iscrowd=1),
        annotation(2, segmentation=rle(compressed=False)),
    ]
    first, second = read_coco(*write(value)).instances(0)
    assert first.rle == second.rle
    assert (first.crowd, second.crowd) == (True, False)


def test_crowd_only_categories(write):
    value = content()
    value["annotations"] = [
        annotation(1),
        annotation(2, segmentation=rle(), iscrowd=1),
        annotation(3, segmentation=rle(), iscrowd=1, category_id=5),
    ]
    assert read_coco(*write(value)).crowd_only(0) == {5}


def test_supercategories_make_siblings_and_a_tree_overrides_them(write, tmp_path):
    cat, dog = read_coco(*write(content())).categories
    assert cat.parents == dog.parents != ()
    tree = tmp_path / "concepts.json"
    tree.write_text(
        json.dumps([{"id": n, "name": name, "granularity": "part"} for n, name in ((3, "cat"), (5, "dog"))])
    )
    cat, _ = read_coco(*write(content()), tree=tree).categories
    assert (cat.granularity, cat.parents) == ("part", ())


def test_picture_is_kept_in_the_orientation_it_is_stored_in(write, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "a.png", exif=exif)
    assert read_coco(*write(content())).load_image(0).size == (30, 20)


def test_instances_come_by_picture_whatever_their_order(write, tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "b.png")
    value = content()
    value["images"].append({"id": 2, "file_name": "b.png", "height": 20, "width": 30})
    value["annotations"] = [annotation(1, image_id=2), annotation(2), annotation(3, image_id=2), annotation(4)]
    images = read_coco(*write(value))
    assert [[one.id for one in images.instances(i)] for i in range(2)] == [[2, 4], [1, 3]]
    assert [one.id for one in images.instances(-1)] == [1, 3]
    with pytest.raises(IndexError):
        images.instances(2)


def image(**changes):
    return lambda value: value["images"][0].update(changes)


def first(**changes):
    return lambda value: value["annotations"][0].update(changes)


def runs(counts):
    return first(segmentation={"size": [20, 30], "counts": counts})


def without(part, key):
    return lambda value: value[part][0].pop(key)


def twice(part, **changes):
    return lambda value: value[part].append({**value[part][0], **changes})


def put(key, thing):
    return lambda value: value.update({key: thing})


def named_twice(value):
    value["categories"].append({"id": 9, "name": "CAT "})
    value["annotations"].append(annotation(2, category_id=9))


HOSTILE = {
    "images missing": (lambda v: v.pop("images"), "the key 'images' is missing; found"),
    "annotations null": (put("annotations", None), "annotations is None, expected a list"),
    "categories empty": (put("categories", []), "it has no categories"),
    "images empty": (put("images", []), "it has no images"),
    "image no object": (put("images", ["a.png"]), r"images\[0\] is 'a.png', expected an object"),
    "image without id": (without("images", "id"), r"images\[0\]: the key 'id' is missing"),
    "image without file": (without("images", "file_name"), "image 7: the key 'file_name' is missing"),
    "image id text": (image(id=" "), r"images\[0\]: its id is ' ', expected a whole number"),
    "image id text, of no annotation": (image(id="x7"), r"annotation 1: its image_id 7 is not among the 1 image"),
    "image id true": (image(id=True), "its id is True"),
    "image twice": (twice("images"), "image 7: two images have this id"),
    "height negative": (image(height=-1), "image 7: its height is -1, expected 1 to"),
    "width huge": (image(width=10**6), "image 7: its width is 1000000"),
    "height float": (image(height=20.5), "image 7: its height is 20.5, expected a whole number"),
    "width not a number": (image(width=float("nan")), "image 7: its width is nan"),
    "path absolute": (image(file_name="/etc/passwd"), "image 7: its file_name '/etc/passwd' leaves"),
    "path upwards": (image(file_name="b/../../b.png"), "leaves the image folder"),
    "path upwards, windows": (image(file_name="..\\b.png"), "leaves the image folder"),
    "path with a drive": (image(file_name="C:\\b.png"), "leaves the image folder"),
    "path empty": (image(file_name=""), "its file_name is ''"),
    "path with a zero byte": (image(file_name="a\0.png"), "expected a path below"),
    "path a number": (image(file_name=7), "its file_name is 7"),
    "path of 10,000 characters": (image(file_name="a" * 10_000), "1 of 1 images are not in"),
    "picture missing": (
        image(file_name="b.png"),
        r"1 of 1 images are not in .*: b.png \(image 7\); expected them there",
    ),
    "category without id": (without("categories", "id"), r"categories\[0\]: the key 'id'"),
    "category without name": (without("categories", "name"), "category 3: the key 'name'"),
    "category twice": (twice("categories", name="cow"), "category 3: two categories have this id .'cat' and 'cow'"),
    "name twice": (named_twice, "category 9: category 3 has the same name 'CAT' .'cat'., and so the same prompt"),
    "name a number": (lambda v: v["categories"][0].update(name=5), "category 3: its name is 5"),
    "name blank": (lambda v: v["categories"][0].update(name="  "), "category 3: its name is"),
    "name of 10,000 characters": (lambda v: v["categories"][0].update(name="a" * 10_000), "expected 1 to 200"),
    "name of two lines": (lambda v: v["categories"][0].update(name="a\nb"), "printable"),
    "granularity unknown": (lambda v: v["categories"][0].update(granularity="x"), "its granularity is 'x'"),
    "synonyms text": (lambda v: v["categories"][0].update(synonyms="x"), "its synonyms are 'x'"),
    "annotation no object": (put("annotations", [3]), r"annotations\[0\] is 3"),
    "annotation id true": (first(id=True), r"annotations\[0\]: its id is True, expected a whole number"),
    "annotation without outline": (
        without("annotations", "segmentation"),
        "none of its 1 .*dropped 1 × box without a mask; expected",
    ),
    "phrase of an annotation": (first(noun_phrase=5), "annotation 1: its noun_phrase is 5, expected text"),
    "phrase of an image": (image(text_input=""), "image 7: its text_input is '', expected 1 to 200"),
    "absent categories unknown": (image(neg_category_ids=[4]), r"image 7: its neg_category_ids are \[4\]"),
    "all crowds": (first(iscrowd=1), "all of its 1 annotations with a mask are crowds .*data.crowds=instances"),
    "image unknown": (first(image_id=8), "annotation 1: its image_id 8 is not among"),
    "image unhashable": (first(image_id=[7]), r"its image_id \[7\] is not among"),
    "category unknown": (first(category_id=4), "annotation 1: its category_id 4 is not among"),
    "category null": (first(category_id=None), "its category_id None"),
    "crowd of two": (first(iscrowd=2), "annotation 1: its iscrowd is 2"),
    "outline text": (first(segmentation="abc"), "its segmentation is 'abc', expected polygons or an RLE"),
    "outline of objects": (first(segmentation=[{"x": 1, "y": 2}] * 3), "expected polygons or an RLE"),
    "coordinate text": (first(segmentation=[[1, 2, 3, "4", 5, 6]]), "annotation 1: a polygon has the coordinate '4'"),
    "coordinate null": (first(segmentation=[[1, 2, 3, None, 5, 6]]), "the coordinate None"),
    "coordinate true": (first(segmentation=[[1, 2, 3, True, 5, 6]]), "the coordinate True"),
    "coordinate beyond floats": (first(segmentation=[[1, 2, 3, 10**400, 5, 6]]), "annotation 1: a polygon has the"),
    "coordinate not finite": (first(segmentation=[[1, 2, 3, float("nan"), 5, 6]]), "annotation 1: .*not finite"),
    "coordinate far away": (first(segmentation=[[1, 2, 3, 1e9, 5, 6]]), "annotation 1: a polygon spans"),
    "run lengths of another size": (first(segmentation=rle((30, 20))), r"annotation 1: .*size \[30, 20\].*\[20, 30\]"),
    "run lengths without size": (first(segmentation={"counts": [600]}), "annotation 1: .*size None"),
    "run lengths without counts": (first(segmentation={"size": [20, 30]}), "annotation 1: its RLE has the counts None"),
    "run lengths too few": (runs([10, 20]), "covers 30 pixels.*600"),
    "run lengths too many": (runs([10, 2**40]), "covers 1099511627786"),
    "run lengths negative": (runs([-10, 610]), "expected whole numbers"),
    "run lengths float": (runs([0.5, 599.5]), "expected whole numbers"),
    "run lengths ragged": (runs([[1], 2]), "annotation 1: its RLE"),
    "compressed, cut off": (runs(rle()["counts"][:-2]), "annotation 1: its RLE"),
    "compressed, of wrong letters": (runs("zzz~"), "annotation 1: its RLE"),
    "compressed, not ASCII": (runs("é"), "annotation 1: its RLE"),
    "compressed, empty": (runs(""), "annotation 1: its RLE"),
    "compressed, of another picture": (runs(rle((60, 60))["counts"]), "annotation 1: .*3600 pixels, the image has 600"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_wrong_records_are_errors_that_name_the_file(write, kind):
    change, message = HOSTILE[kind]
    value = content()
    change(value)
    with pytest.raises(DataError, match=message) as raised:
        read_coco(*write(value))
    text = str(raised.value)
    assert "instances.json" in text
    assert "\n" not in text
    assert len(text) < 600


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"', "[" * 100_000])
def test_files_that_are_no_annotations(write, text):
    with pytest.raises(DataError, match=r"instances\.json"):
        read_coco(*write(text))


def test_missing_or_binary_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_coco(tmp_path / "none.json", tmp_path)
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="it is UTF-16"):
        read_coco(tmp_path / "a.json", tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_coco(tmp_path, tmp_path)


def test_pictures_that_cannot_be_used(write, tmp_path):
    images = read_coco(*write(content()))
    picture = tmp_path / "images" / "a.png"
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(noise).save(picture)
    whole = picture.read_bytes()
    for broken in (b"", b"not a picture", whole[: len(whole) // 2], whole[:20] + b"\xff" * 40 + whole[60:]):
        picture.write_bytes(broken)
        with pytest.raises(DataError, match=r"a\.png: not a readable image"):
            images.load_image(0)
    Image.new("RGB", (20, 30)).save(picture)
    with pytest.raises(DataError, match=r"a\.png: image 7 is 20x30 pixels, its annotations are for 30x20"):
        images.load_image(0)
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(picture)
    with pytest.raises(DataError, match="expected 8 bits a channel"):
        images.load_image(0)
    picture.unlink()
    with pytest.raises(DataError, match="no such file"):
        images.load_image(0)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_pictures_of_other_modes_become_rgb(write, tmp_path, mode):
    images = read_coco(*write(content()))
    picture = Image.new("L", (30, 20), 200).convert(mode)
    picture.save(tmp_path / "images" / "a.png", **({"transparency": b"\x00\x80"} if mode == "P" else {}))
    assert images.load_image(0).mode == "RGB"


def test_images_without_a_record_are_counted(write):
    _, folder = paths = write(content())
    assert not [remark for remark in read_coco(*paths).remarks if "no record" in remark]
    for name in ("b.png", "c.JPG", "notes.txt", ".hidden.png"):
        (folder / name).touch()
    remark = f"2 image files of {folder} have no record in instances.json and are left out"
    assert remark in read_coco(*paths).remarks
