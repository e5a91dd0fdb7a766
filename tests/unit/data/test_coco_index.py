"""Records read by the hundred agree with those read one by one; an index is used only as it was written."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path

import pytest
from coco_files import SQUARE, annotation, content, rle

from benchmarks.data import write_instances
from sam3_hyperet.data import coco_index, coco_json
from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.subsets import Subset
from sam3_hyperet.errors import DataError

ODDITIES = [
    {"id": None},
    {"id": "1000"},
    {"id": 1001.0},
    {"id": 3},
    {"image_id": "7"},
    {"category_id": 5.0},
    {"iscrowd": "true"},
    {"area": 0.3},
    {"ignore": 1},
    {"ignore": False},
    {"bbox": [99, 2, 3, 4]},
    {"bbox": [1, 2, 3]},
    {"segmentation": [[[2, 2], [12, 2], [12, 12]]]},
    {"segmentation": [2, 2, 12, 2, 12, 12]},
    {"bbox": None},
    {"bbox": []},
    {"bbox": [2, 2, 0, 10]},
    {"bbox": [2, 2, 15, 15]},
    {"bbox": [1.5, 2, 10.25, 10]},
    {"area": 0},
    {"area": None},
    {"area": 10**9},
    {"area": 99.5},
    {"iscrowd": True},
    {"iscrowd": 1.0},
    {"iscrowd": 1, "segmentation": rle()},
    {"iscrowd": 1, "segmentation": rle(compressed=False)},
    {"segmentation": rle(area=False)},
    {"segmentation": None},
    {"segmentation": []},
    {"segmentation": [[]]},
    {"segmentation": [[1, 1, 5, 5]]},
    {"segmentation": [*SQUARE, [1, 1, 2, 2]]},
    {"segmentation": [*SQUARE, [20, 1, 22.125, 1.1, 22, 9]]},
    {"segmentation": [[5, 5, 5.01, 5, 5.01, 9]], "category_id": 5},
    {"segmentation": [[2, 2, 12, 2, 12, 25, 2, 25]]},
]
FAULTS = [
    {"id": -1},
    {"id": 2**63},
    {"image_id": 9},
    {"category_id": 8},
    {"category_id": "3"},
    {"iscrowd": 2},
    {"segmentation": "abc"},
    {"segmentation": [[1, 2, 3, 4, 5, True]]},
    {"segmentation": [[1, 2, 3, 4, 5, 10**400]]},
    {"segmentation": [[1, 2, 3, 4, 5, 1e300]]},
    {"segmentation": {"counts": [600]}},
]


def described(images):
    """All that a reader says of a data set."""
    parts = (images.instances, images.crowd_only, images.unlabelled, images.not_exhaustive, images.image)
    by_image = [[part(i) for part in parts] for i in range(len(images))]
    return by_image, images.summary(), images.annotation_count, images.counts, images.categories


def outcome(*files, **options):
    try:
        return described(read_coco(*files, **options))
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(12))
def test_by_the_hundred_and_one_by_one_are_the_same(write, monkeypatch, seed):
    monkeypatch.setattr(coco_json, "LARGE", 1)
    monkeypatch.setattr(coco_json, "_AT_ONCE", 16)
    draw = random.Random(seed)
    value = content()
    value["images"][0]["neg_category_ids"] = [5]
    value["annotations"] = [annotation(n, area=80.0 + n) for n in range(60)]
    changes = draw.choices(ODDITIES, k=20) + draw.choices(FAULTS, k=2 * (seed % 2))
    for record, change in zip(draw.sample(value["annotations"], len(changes)), changes, strict=True):
        record.update(copy.deepcopy(change))
    value["annotations"][50] = copy.deepcopy(value["annotations"][20])
    files = write(value)
    kinds = [{"crowds": "ignore"}, {"crowds": "instances"}, {"boxes": "instances"}]
    found = [outcome(*files, **kind) for kind in kinds]
    monkeypatch.setattr(coco_json, "_raw_content", lambda path: (None, None))
    assert found == [outcome(*files, **kind) for kind in kinds]
    assert seed % 2 or not isinstance(found[0], str)


def test_a_record_that_is_no_object_is_named_by_its_place(write, monkeypatch):
    monkeypatch.setattr(coco_json, "LARGE", 1)
    monkeypatch.setattr(coco_json, "_AT_ONCE", 16)
    value = content()
    value["annotations"] = [*(annotation(n) for n in range(40)), 3]
    with pytest.raises(DataError, match=r"annotations\[40\] is 3, expected an object"):
        read_coco(*write(value))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"iscrowd": 0', '"iscrowd": 0, "iscrowd": null', r"the key 'iscrowd' occurs twice"),
        ('"iscrowd": 0', '"iscrowd": 0, "note": "\udcff"', r"byte \d+ is not UTF-8"),
        ('"images": [', '"images": [], "images": [', r"the key 'images' occurs twice"),
        ('"annotations": [', '"annotations": 3, "others": [', r"annotations is 3, expected a list"),
        ('"annotations": [', '"anotations": [', r"the key 'annotations' is missing; found 'images', 'categories'"),
        ('"iscrowd": 0,', '"iscrowd": 0', "not valid JSON"),
    ],
)
def test_a_large_file_is_refused_in_the_same_words(write, monkeypatch, before, after, message):
    file, images = write(json.dumps(content()))
    file.write_bytes(file.read_text().replace(before, after, 1).encode("utf-8", "surrogateescape"))
    said = []
    for large in (10**9, 1):
        monkeypatch.setattr(coco_json, "LARGE", large)
        with pytest.raises(DataError, match=message) as raised:
            read_coco(file, images)
        said.append(str(raised.value))
    assert said[0] == said[1]


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file of 300 annotations that counts as large; the user's cache is empty."""
    monkeypatch.setattr(coco_json, "LARGE", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = write_instances(tmp_path / "set", images=40, annotations=300)
    content = json.loads(file.read_text())
    content["images"][3] |= {"neg_category_ids": [5, 7], "not_exhaustive_category_ids": [9]}
    content["annotations"][0]["segmentation"] = []
    file.write_text(json.dumps(content))
    return file


def open_large(file, **options):
    return read_coco(file, file.parent / "images", **options)


def index_of(file):
    return file.with_name(".instances.json.index")


@pytest.mark.parametrize("crowds", ["ignore", "instances"])
def test_an_index_says_what_the_file_says(large, monkeypatch, crowds):
    monkeypatch.setattr(coco_json, "LARGE", 10**9)
    small = open_large(large, crowds=crowds)
    monkeypatch.setattr(coco_json, "LARGE", 1)
    first = open_large(large)
    monkeypatch.setattr("sam3_hyperet.data.coco.CocoJson", None)  # the file is not read again
    later = open_large(large, crowds=crowds)
    assert described(small) == described(later)
    assert (small.remarks, later.remarks) == ((), ())
    assert f"is kept in {index_of(large)} (1 MiB)" in data_notes(Subset(first, [0]))[1]
    assert list(large.parent.glob(".*")) == [index_of(large)]


def test_an_image_that_has_gone_is_missed_in_spite_of_the_index(large):
    image = open_large(large).image(3).path
    image.unlink()
    with pytest.raises(DataError, match=rf"1 of 40 images are not in .*: {image.name} \(image 4\)"):
        open_large(large)


def spoil(index, change):
    content = bytearray(index.read_bytes())
    index.write_bytes(change(content))


SPOILT = {
    "cut off": (lambda b: b[: len(b) // 2], "damaged"),
    "empty": (lambda b: b"", "unpack"),
    "a flipped bit at its end": (lambda b: b[:-100] + bytes([b[-100] ^ 4]) + b[-99:], "damaged"),
    "a flipped bit in its header": (lambda b: b[:60] + bytes([b[60] ^ 1]) + b[61:], "damaged"),
    "another kind of file": (lambda b: b"PK" + b[2:], "damaged"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_damaged_index_is_not_used_and_is_made_anew(large, kind):
    expected = described(open_large(large))
    change, said = SPOILT[kind]
    spoil(index_of(large), change)
    anew = open_large(large)
    assert described(anew) == expected
    assert said in anew.remarks[0]
    assert "for the next time" in anew.remarks[1]
    assert open_large(large).remarks == ()


def test_an_index_of_another_content_or_version_is_not_used(large, monkeypatch):
    open_large(large)
    content = json.loads(large.read_text())
    del content["annotations"][-1]
    large.write_text(json.dumps(content))
    changed = open_large(large)
    assert changed.annotation_count == 299
    assert "another content of the file" in changed.remarks[0]
    monkeypatch.setattr(coco_index, "_reader", lambda: "later")
    assert "another version of this package" in open_large(large).remarks[0]


def test_where_nothing_can_be_written_beside_the_file_the_cache_has_the_index(large, tmp_path, monkeypatch):
    index_of(large).mkdir()  # in the way, also for root
    assert str(tmp_path / "cache" / "sam3_hyperet") in " ".join(open_large(large).remarks)
    assert open_large(large).remarks == ()
    (in_cache,) = (tmp_path / "cache" / "sam3_hyperet").iterdir()
    in_cache.unlink()
    in_cache.mkdir()
    images = open_large(large)
    assert "no index can be written" in images.remarks[-1]
    assert images.annotation_count == 300
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    open_large(large)
    assert not (tmp_path / "not").exists()


def test_a_file_that_only_json_takes_has_an_index_too(large):
    large.write_text(large.read_text().replace('"info": {}', '"info": NaN'))
    first, later = open_large(large), open_large(large)
    assert described(first) == described(later)
    assert later.remarks == ()


def test_arrays_of_an_index_are_mapped_and_shared(large):
    open_large(large)
    images = open_large(large)
    mapped = Path(f"/proc/{os.getpid()}/maps").read_text()
    assert str(index_of(large)) in mapped
    assert not images._file.polygons.values.flags.writeable


def test_a_root_category_is_left_out_of_a_large_file_as_well(large):
    content = json.loads(large.read_text())
    own = [{**one, "supercategory": "goods"} for one in content["categories"] if one["id"]]
    content["categories"] = [{"id": 0, "name": "goods", "supercategory": "none"}, *own]
    large.write_text(json.dumps(content))
    read, again = open_large(large), open_large(large)
    assert read.categories == again.categories
    assert len(again.categories) == len(own)
    assert read.left_out == again.left_out == {"goods"}
    assert sum("'goods' is left out" in line for line in again.remarks) == 1
