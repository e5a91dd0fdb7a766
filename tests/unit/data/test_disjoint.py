"""Splits without a picture in common, down to what a scene was drawn from."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace

import pytest
from omegaconf import OmegaConf
from PIL import Image

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.run_options import read_run
from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.disjoint import check_disjoint, check_unscored, shared_remarks
from sam3_hyperet.data.label_maps import read_label_maps
from sam3_hyperet.data.sources import open_run
from sam3_hyperet.digest import sha256
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.scenes.dataset import DrawnFrom, write_scenes

COUNTS = {"train": 3, "tune": 2, "val": 2}


def images_of(root, tool, *arguments):
    """The pictures of a command's splits, a few of each, in the folder that it says, below `root`."""
    config = OmegaConf.to_container(parse_command(tool, list(arguments))[1], resolve=True)
    data = read_run(config).data
    opened = open_run(replace(data, root=str(root / data.root), splits=COUNTS, size=64), tune=True, evaluate=True)
    return {"train": opened.training, "tune": opened.tuning.images, "val": opened.evaluation.images}


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """The splits of pretraining and of training on scenes, as the commands draw them, by tool and split."""
    root = tmp_path_factory.mktemp("work")
    return {
        f"{tool} {split}": images
        for tool, arguments in (
            ("pretrain", ["experiment=pretrain_levels"]),
            ("train", ["data=scenes_levels"]),
        )
        for split, images in images_of(root, tool, *arguments).items()
    }


def test_pretraining_training_tuning_and_scoring_share_no_scene(splits):
    check_disjoint(splits)
    key = DrawnFrom()
    files = {name: [images.image(i).path for i in range(len(images))] for name, images in splits.items()}
    keys = {name: {key(file) for file in paths} for name, paths in files.items()}
    contents = {name: {sha256(file) for file in paths} for name, paths in files.items()}
    for one, other in itertools.combinations(splits, 2):
        assert len(keys[one]) == len(files[one])
        assert None not in keys[one]
        assert not keys[one] & keys[other]
        assert not contents[one] & contents[other]


def test_the_same_file_and_the_same_key_and_the_same_content_are_found(splits, tmp_path):
    train = splits["train train"]
    with pytest.raises(DataError, match=r"b has 3 pictures of a, the same file: .*000001\.png"):
        check_disjoint({"a": train, "b": train})
    larger = write_scenes(tmp_path / "larger", 1, 0, 96, "train")  # training's seed and split
    drawn = read_coco(larger.annotations, larger.image_folder)
    with pytest.raises(DataError, match=r"b has 1 picture of a, drawn from the same seed.*another data\.seed"):
        check_disjoint({"a": train, "b": drawn})
    for folder in ("images", "labels"):
        shutil.copytree(train.image(0).path.parents[1] / folder, tmp_path / folder)
    copied = read_label_maps(tmp_path / "images", tmp_path / "labels", larger.names, ignore=0, offset=1)
    with pytest.raises(DataError, match="b has 3 pictures of a, of the same content"):
        check_disjoint({"a": train, "b": copied})
    check_disjoint({"a": splits["train val"], "b": copied})
    copies = {}
    for export, gray in (("ab1", 10), ("cd2", 90)):
        for folder in ("images", "labels"):
            (tmp_path / export / folder).mkdir(parents=True)
            Image.new("L", (8, 8), gray if folder == "images" else 1).save(
                tmp_path / export / folder / f"street_png.rf.{export}.png"
            )
        copies[export] = read_label_maps(
            tmp_path / export / "images", tmp_path / export / "labels", larger.names, ignore=0, offset=1
        )
    with pytest.raises(DataError, match="cd2 has 1 picture of ab1, copies of the same picture"):
        check_disjoint(copies)


def test_pictures_of_any_two_splits_are_said(splits):
    """Whether they are trained on, or choose what is scored."""
    train, tune, val = (splits[f"train {split}"] for split in COUNTS)
    assert shared_remarks({"train": train, "tune": tune, "val": val}) == ()
    (said,) = shared_remarks({"train": train, "tune": val, "val": val})
    assert said.startswith(f"warning: val has {len(val)} pictures of tune; scores on them say nothing: ")
    with pytest.raises(ConfigError, match="protocol=cascade: 2 of its tuning images are scored in split=val"):
        check_unscored("protocol=cascade", val, val, "val")
