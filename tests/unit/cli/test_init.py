"""`sam3-hyperet init`: files that compose, say what was recognised, and replace nothing."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from coco_cases import Case, write_case
from exports import EXPORTS
from map_cases import MapCase, write_maps
from noise_tree import write_noise_tree
from omegaconf import OmegaConf

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.init import main
from sam3_hyperet.cli.run_options import read_run
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.layouts.table import explicit
from sam3_hyperet.options import read_options


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A COCO tree of seven training images and two for validation; "pear" has no annotation, "${tin}" an odd name."""
    root = tmp_path_factory.mktemp("data") / "my shop"
    names = ("apple", "${tin}", "pear")
    categories = [{"id": number, "name": name, "supercategory": "goods"} for number, name in enumerate(names, 1)]
    write_noise_tree(root, categories, {"train": 7, "val": 2}, (48, 64), [8, 8, 40, 8, 40, 40, 8, 40])
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(capsys) -> list[list[str]]:
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    return [shlex.split(line.removeprefix("next: sam3-hyperet ")) for line in lines]


@pytest.mark.parametrize("model", [[], ["model=tiny"], ["model.checkpoint=/w/sam3.pt"]])
def test_the_printed_commands_compose(exported, here, capsys, model, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sam3-hyperet"])
    files = main([str(exported), *model])
    assert files == (Path("my shop.yaml"), Path("my shop-experiment.yaml"))
    prepare, doctor, train = commands(capsys)
    assert prepare == ["prepare", "data=my shop.yaml"]
    assert doctor[0] == "doctor"
    parse_command("prepare", prepare[1:])
    parse_command("doctor", doctor[1:])
    run = read_run(OmegaConf.to_container(parse_command("train", train[1:])[1], resolve=True))
    assert run.model.name == ("tiny" if "model=tiny" in model else "large")
    assert run.model.checkpoint == {0: "facebook/sam3", 1: "/w/sam3.pt"}.get(len(model) - ("model=tiny" in model) * 2)
    assert run.hyperet.resolved_sites == ("encoder_layer", "prompt")
    assert run.train.batch_size * run.train.accumulate == 8
    assert files[1].read_text().splitlines()[2].endswith(shlex.join(train[1:]))
    assert "After the recipe experiment=few_shot" in files[1].read_text()


def test_the_data_file_is_what_was_recognised(exported, here):
    data, _ = main([str(exported)])
    config = parse_command("train", [f"data={data}"])[1]
    found = read_run(OmegaConf.to_container(config, resolve=True)).data
    expected, _ = explicit(DataOptions("", "auto", str(exported), {}, num_positives=3, num_negatives=2, zoom=1.5))
    assert asdict(found) == asdict(expected) | {"tune_images": 0, "splits": found.splits}
    assert {split: list(files) for split, files in found.splits.items()} == dict(expected.splits)
    text = data.read_text()
    assert "my shop: recognised as COCO" in text
    assert "# 3 categories, with their annotations in the files of train, val:\n" in text
    assert "#   ${tin}        4        1\n#   apple         3        1\n" in text
    assert "#   pear          0        0   none in train: never prompted as absent\n" in text
    assert "splits: # train: 7 images, val: 2 images\n" in text


@pytest.mark.parametrize("layout", EXPORTS)
def test_every_layout(layout, here):
    """The file says what `data=auto` would, but for what `init` chooses."""
    root = EXPORTS[layout](here / "export")
    data, _ = main([str(root)])
    found = read_run(OmegaConf.to_container(parse_command("train", [f"data={data}"])[1], resolve=True)).data
    auto = parse_command("init", [str(root)])[1]
    expected, _ = explicit(read_options(DataOptions, OmegaConf.to_container(auto.data), "data"))
    assert replace(found, tune_images=expected.tune_images) == replace(expected, root=found.root)


def test_what_is_odd_is_printed_and_written(exported, here, capsys):
    data, _ = main(
        [str(exported), "data.exif=apply", "data.vocabulary=[apple]", "data.splits={train: train, val: val}"]
    )
    said, text = capsys.readouterr().out, data.read_text()
    warned = "my shop (train): warning: 7 of 7 outlines are upright rectangles"
    assert warned in said
    assert f"# {warned}" in text
    assert "\n# recognised, or given: " in text
    assert "\nexif: apply\n" in text
    assert "# 1 category, with their annotations in the files of train, val:\n#   apple        3        1\n" in text


def test_what_is_dropped_is_printed_and_written(tmp_path, monkeypatch, capsys):
    def with_a_box(content):
        content["annotations"][0]["segmentation"] = []

    root = write_case(tmp_path / "shop", Case(with_a_box))
    monkeypatch.chdir(tmp_path)
    data, _ = main([str(root)])
    dropped = "; dropped 1 × box without a mask"
    lines = [line for line in capsys.readouterr().out.splitlines() if dropped in line]
    assert lines[0].startswith("shop (train")
    assert all(f"# {line}" in data.read_text() for line in lines)


def test_classes_that_are_none_by_their_name_are_printed(tmp_path, monkeypatch, capsys):
    write_maps(tmp_path / "shop", MapCase(names="unlabeled\ncar\nhouse\n"))
    monkeypatch.chdir(tmp_path)
    main([str(tmp_path / "shop")])
    assert "shop (train, val): no class by its name, so not asked for and not scored: un" in capsys.readouterr().out


def test_files_that_exist_are_left_alone(exported, here):
    (here / "file").touch()
    with pytest.raises(ConfigError, match=r"out=file: is no folder; expected one for the two files"):
        main([str(exported), "out=file"])
    (here / "my shop-experiment.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"my shop-experiment.yaml exists and is left alone; expected another out="):
        main([str(exported)])
    assert sorted(file.name for file in here.iterdir()) == ["file", "my shop-experiment.yaml"]
    main([f"root={exported}", "out=files/shop"])
    assert len(list((here / "files" / "shop").iterdir())) == 2


def test_a_folder_that_is_no_data_set(here):
    (here / "empty").mkdir()
    with pytest.raises(DataError, match="no known layout of a data set"):
        main(["empty"])
    assert [file.name for file in here.iterdir()] == ["empty"]
