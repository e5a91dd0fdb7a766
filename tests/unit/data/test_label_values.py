"""Values of label maps that fit the names in two ways are refused, with both remedies."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.cli.composition import _value
from sam3_hyperet.data import label_values
from sam3_hyperet.data.label_maps import read_label_maps
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.scoring.label_maps import read_names, score_label_folders

NAMES = ["wall", "tree", "road", "car"]
BACKGROUND = ["background", "wall", "tree", "road"]

# names, values that occur, options; the value of the first name, or what the refusal says
READINGS = {
    "from 0, all there": (NAMES, [0, 1, 2, 3], {}, 0),
    "from 0, one missing, something ignored": (NAMES, [0, 2, 3, 255], {}, 0),
    "from 0, one missing, nothing ignored": (NAMES, [0, 2, 3], {}, r"offset=0 .*\[background,.*ignore=0, .* 0 33.33%"),
    "the same, stated": (NAMES, [0, 2, 3], {"offset": 0}, 0),
    "the same, of a background": (BACKGROUND, [0, 2, 3], {}, 0),
    "the same, 0 ignored": (NAMES, [0, 2, 3], {"ignore": 0}, 1),
    "a background that is ignored": (BACKGROUND, [0, 2, 3], {"ignore": 0}, 0),
    "from 1, all there": (NAMES, [1, 2, 3, 4, 255], {}, "the names begin at 1, expected data.offset=1$"),
    "the same, stated ": (NAMES, [1, 2, 3, 4, 255], {"offset": 1}, 1),
    "0 nowhere": (NAMES, [1, 2, 3, 255], {}, "'wall' has no pixel, or from 1; .*offset=0 .*offset=1"),
    "0 nowhere, the last one ignored": (NAMES, [1, 2, 3, 4], {"ignore": 4}, "two ways"),
    "one value more than names": (NAMES, [0, 1, 2, 3, 4], {}, "expected 'data.names=.*ignore=0, .*; if 4 is no"),
    "0 beside names from 1": (NAMES, [0, 1, 2, 255], {"offset": 1}, "background.*, and data.offset=0; or data.ig"),
    "two that are ignored": (NAMES, [0, 1, 2, 4, 255], {"ignore": [0, 255]}, 1),
    "far away": (NAMES, [0, 1, 77, 200], {}, r"label 77 \(and 1 more .*\), expected 0 to 3.*25.00%"),
    "a mask of 0 and 255": (["car"], [0, 255], {}, r"data.colors=\{background: 0, car: 255\}"),
    "the usual medical mask": (["tumour"], [0, 1], {}, r"expected 'data.names=\[background, tumour\]' if 0 is"),
    "the same, by the remedy": (["background", "tumour"], [0, 1], {}, 0),
    "a marked name": ([*NAMES, "rest (ignore)"], [1, 2, 4], {}, 0),
}  # fmt: skip


def folders(root, values, count=1):
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for n in range(count):
        Image.new("RGB", (8, len(values))).save(root / "images" / f"{n}.png")
        labels = np.repeat(np.asarray(values, np.uint8)[:, None], 8, axis=1)
        Image.fromarray(labels).save(root / "labels" / f"{n}.png")
    return root / "images", root / "labels"


@pytest.mark.parametrize("kind", READINGS)
def test_values_that_fit_two_readings_are_refused(kind, tmp_path):
    names, values, options, expected = READINGS[kind]
    found = folders(tmp_path, values)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            read_label_maps(*found, names, **{"ignore": 255} | options)
        return
    images = read_label_maps(*found, names, **{"ignore": 255} | options)
    shown = {c.name for c in images.categories if c.id in images.label_map(0)}
    ignored = np.atleast_1d(options.get("ignore", 255))
    positions = [value - expected for value in values if value not in ignored]
    assert shown == {names[n] for n in positions if not names[n].endswith("(ignore)")}


def test_what_is_taken_to_be_is_said(tmp_path):
    images = read_label_maps(*folders(tmp_path, [0, 1, 2, 3]), NAMES, ignore=255)
    assert images.remarks == (
        "names begin at the value 0, 'wall', as each value from 0 to 3 occurs; if 0 is what the classes leave: "
        "'data.names=[background, wall, tree, road, car]'",
    )
    assert read_label_maps(tmp_path / "images", tmp_path / "labels", NAMES, ignore=255, offset=0).remarks == ()
    without = read_label_maps(tmp_path / "images", tmp_path / "labels", NAMES, ignore=2, offset=0)
    assert without.remarks == ("warning: classes at ignored values, so none: road (2)",)


@pytest.mark.parametrize("name", ["tumour", "traffic light", "l'été"])
@pytest.mark.parametrize(("names", "values"), [(1, [0, 255]), (0, [0, 255]), (1, [0, 1])])
def test_what_a_refusal_says_can_be_pasted(names, values, name, tmp_path):
    found = folders(tmp_path, values)
    with pytest.raises(DataError) as refused:
        read_label_maps(*found, [name] * names or "", ignore=255)
    written = next(word for word in shlex.split(str(refused.value)) if word.startswith(("data.names=", "data.colors=")))
    key, _, text = written.partition("=")
    value = _value(key, text, expects_text=False)
    if key == "data.colors":
        images = read_label_maps(*found, "", ignore=255, colors=value)
    else:
        images = read_label_maps(*found, value, ignore=255)
    assert [c.name for c in images.categories] == ["background", name if names else "car"]


def test_files_are_scored_by_the_same_rule(tmp_path):
    _, labels = folders(tmp_path, [0, 2, 3])
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    with pytest.raises(DataError, match=r"offset=0 for the first, a first name, background, .* or ignore=0, only if"):
        score_label_folders(labels, labels, read_names(tmp_path / "names.txt"))
    said: list[str] = []
    metrics = score_label_folders(labels, labels, read_names(tmp_path / "names.txt", ignore=0), said.append)
    assert (metrics["IoU/tree"], metrics["IoU/road"], metrics["classes/gt"]) == (1, 1, 2)
    assert "2 tree 33.33%, 3 road 33.33%" in said[0]
    assert score_label_folders(labels, labels, read_names(tmp_path / "names.txt", offset=0))["classes/gt"] == 3


def test_real_ade20k_with_a_plain_list_of_names_is_refused(shared_data, tmp_path):
    root = shared_data / "ADEChallengeData2016"
    (tmp_path / "names.txt").write_text("\n".join(f"class {n}" for n in range(150)))
    labels = root / "annotations" / "validation"
    with pytest.raises(DataError, match="fit the 150 names in two ways"):
        score_label_folders(labels, labels, read_names(tmp_path / "names.txt"))
    with pytest.raises(DataError, match="fit the 150 names in two ways"):
        read_label_maps(root / "images" / "validation", labels, tmp_path / "names.txt", ignore=255)


def test_notes_name_each_class_with_its_value_and_what_does_not_occur(tmp_path, monkeypatch):
    images = read_label_maps(*folders(tmp_path, [0, 0, 2, 3], count=6), NAMES, ignore=255, offset=0)
    notes = data_notes(images)
    assert notes[1].endswith("in all label maps: 0 wall 50.00%, 2 road 25.00%, 3 car 25.00%")
    assert notes[2].endswith("warning: without a pixel in all label maps, never taken as absent: tree (1)")
    assert notes[3].endswith("the ignored value 255 occurs nowhere in all label maps")
    assert images.unannotated == {1}
    monkeypatch.setattr(label_values, "LOOKED_AT", 4)
    sampled = read_label_maps(tmp_path / "images", tmp_path / "labels", NAMES, ignore=255, offset=0)
    assert "in 4 of 6 label maps: 0 wall" in data_notes(sampled)[1]
    assert data_notes(sampled)[2].endswith("without a pixel in 4 of 6 label maps: tree (1)")
    assert sampled.unannotated == set()


def test_pixels_that_are_mostly_ignored_are_warned_of(tmp_path):
    images = read_label_maps(*folders(tmp_path, [0, 0, 1]), ["tumour"], ignore=0)
    expected = "67% of the pixels are ignored: what is found there costs nothing in mIoU, .* if 0 is what the classes"
    assert re.search(f"warning: {expected}", data_notes(images)[-1])
    images = read_label_maps(tmp_path / "images", tmp_path / "labels", ["background", "tumour"])
    assert not any("pixels are ignored" in line for line in data_notes(images))
