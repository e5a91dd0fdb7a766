"""`datasets/prepare_coco.py` and `prepare_ade20k.py`: complete sets get a manifest, all others a table and an error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from one_line_errors import error_of
from PIL import Image

from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.prepare import main

REPOSITORY = Path(__file__).resolve().parents[3]
SPLITS = ("train2017", "val2017")
COUNTS = "counts={coco:{train:{pictures:2,annotations:2,categories:1},val:{pictures:2,annotations:2,categories:1}}}"


@pytest.fixture
def coco(tmp_path):
    """Two pictures a split with an annotation each; the second has no area."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in SPLITS:
        (root / split).mkdir()
        images, annotations = [], []
        for number in (1, 2):
            Image.fromarray(np.full((6, 8, 3), number, np.uint8)).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 6, "width": 8})
            square = [1, 1, 5, 1, 5, 5, 1, 5]
            box = [1, 1, 4, 4 * (number == 1)]
            annotations.append(
                {"id": number, "image_id": number, "category_id": 3, "bbox": box, "area": 16, "segmentation": [square]}
            )
        content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "car"}]}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def fails(capsys):
    """A function that runs a tool to its error; returns that and the table."""

    def run(root, *arguments):
        error, table = error_of(main, ["data=coco", f"root={root}", *arguments], capsys, root / "prepared.json")
        return error, " ".join(table.split())

    return run


def test_a_complete_set_gets_a_manifest(coco, capsys):
    assert main(["data=coco", f"root={coco}", COUNTS]) == coco / "prepared.json"
    manifest = json.loads((coco / "prepared.json").read_text())
    assert (manifest["data"], manifest["splits"].keys()) == ("coco", {"train", "val"})
    train, val = (manifest["splits"][name] for name in ("train", "val"))
    assert (train["pictures"], train["annotations"], train["categories"]) == (2, 2, 1)
    assert train["bytes"] == sum(path.stat().st_size for path in (coco / "train2017").iterdir())
    assert train["sha256"] != val["sha256"]
    said = " ".join(capsys.readouterr().out.split())
    assert "train: coco: 2 images, 1 category; repaired 1 × box without area, taken from the mask" in said
    assert f"next: sam3-hyperet train data=coco data.root={coco}" in said
    assert "FAILED" not in said
    assert "coco: warning: none of 2 images looked at lacks a concept" in said
    again = main(["data=coco", f"root={coco}", "counts=null", "out=elsewhere/again.json"])
    assert json.loads(again.read_text()) == manifest
    assert main(["data=coco", f"root={coco}", "counts=null", "out=null"]) is None


def test_of_validation_images_alone_the_next_command_scores(coco, capsys):
    assert main(["data=coco", f"root={coco}", "data.splits={val: val2017}", "counts=null", "out=null"]) is None
    assert f"next: sam3-hyperet evaluate data=coco data.root={coco}" in capsys.readouterr().out


def test_only_a_manifest_is_replaced(coco, capsys):
    (coco / "prepared.json").write_text('{"mine": 1}')
    with pytest.raises(SystemExit):
        exit_cleanly(main)([f"root={coco}", "counts=null"])
    assert "prepared.json is there and is no manifest of this tool; it is left alone" in capsys.readouterr().err
    assert (coco / "prepared.json").read_text() == '{"mine": 1}'


def test_a_file_of_another_size_changes_the_hash(coco):
    def hash_of():
        return json.loads(main(["data=coco", f"root={coco}", "counts=null"]).read_text())["splits"]["val"]["sha256"]

    before = hash_of()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)).save(coco / "val2017/1.png")
    assert hash_of() != before


def test_official_counts_are_expected(coco, fails):
    error, table = fails(coco)
    assert "6 checks failed (train: pictures, train: categories, train: annotations, val: pictures" in error
    assert "get it from https://cocodataset.org" in error
    assert "train │ pictures │ 2 │ 118,287 │ FAILED" in table
    assert "val │ annotations │ 2 │ 36,781 │ FAILED" in table


def test_pictures_that_cannot_be_used_are_counted_and_named(coco, fails):
    whole = (coco / "train2017/1.png").read_bytes()
    (coco / "train2017/1.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (9, 9)).save(coco / "train2017/2.png")
    error, table = fails(coco, "counts=null")
    assert "1 check failed (train: unusable files)" in error
    assert "train │ unusable files │ 2 │ 0 │ FAILED" in table
    assert f"train: {coco}/train2017/1.png: not a readable image" in table
    assert "2.png: image 2 is 9x9 pixels, its annotations are for 8x6" in table
    assert "val │ unusable files │ 0 │ 0 │ ok" in table


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "val2017/2.png").unlink(), "1 of 2 images are not in"),
        (lambda root: shutil.rmtree(root / "val2017"), "2 of 2 images are not in"),
        (lambda root: (root / "annotations/instances_val2017.json").unlink(), "no such file"),
        (lambda root: (root / "annotations/instances_val2017.json").write_text("<html>"), "not valid JSON"),
    ],
)
def test_what_is_missing_is_said(coco, fails, spoil, message):
    spoil(coco)
    error, table = fails(coco, "counts=null")
    assert "1 check failed (val: readable)" in error
    assert "train │ pictures │ 2 │ │ ok" in table
    assert message in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["root=/nowhere"], "/nowhere: no such folder; get it from https://cocodataset.org"),
        (["workers=0"], "workers=0; expected an integer from 1"),
        (["data.format=voc"], "data.format='voc' is unknown; expected one of scenes, coco"),
        (["roots=x"], "key 'roots' is unknown; there are out"),
    ],
)
def test_options(tmp_path, capsys, arguments, message):
    assert message in error_of(main, ["data=coco", f"root={tmp_path}", *arguments], capsys)[0]


def test_real_ade20k_is_a_part_of_the_official_one(shared_data, capsys, tmp_path):
    root = f"root={shared_data / 'ADEChallengeData2016'}"
    with pytest.raises(SystemExit):
        exit_cleanly(main)(["data=ade20k", root, f"out={tmp_path / 'a.json'}"])
    said = capsys.readouterr()
    assert "2 checks failed (train: pictures, val: pictures)" in said.err
    assert not (tmp_path / "a.json").exists()
    manifest = json.loads(main(["data=ade20k", root, f"out={tmp_path / 'a.json'}", "counts=null"]).read_text())
    assert {name: split["pictures"] for name, split in manifest["splits"].items()} == {"train": 6, "val": 3}
    assert 0.5 < manifest["splits"]["val"]["labelled"] < 1


def test_the_scripts_run(coco):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "datasets/prepare_coco.py"), f"root={coco}", "counts=null"],
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        cwd=coco,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (coco / "prepared.json").is_file()
    assert f"next: python {REPOSITORY / 'tools/train.py'} data=coco data.root={coco}" in done.stdout
