"""The options of a healthy run on a small set, and what `doctor` says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from noise_tree import write_noise_tree

from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.doctor import main
from sam3_hyperet.modeling.checkpoint import save_base


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A small healthy COCO set: two categories, three training images and two for validation, all different."""
    root = tmp_path_factory.mktemp("shop")
    categories = [{"id": 1, "name": "apple"}, {"id": 2, "name": "tin"}]
    write_noise_tree(root, categories, {"train": 3, "val": 2}, (64, 96), [8, 8, 40, 8, 40, 40, 20, 40])
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory, base) -> Path:
    path = tmp_path_factory.mktemp("weights") / "base.safetensors"
    save_base(base, path)
    return path


@pytest.fixture
def options(shop, weights, tmp_path):
    """The options of a healthy run, by key; a test spoils one."""
    return {
        "data": "coco",
        "data.root": str(shop),
        "data.splits": "{train: train, val: val}",
        "data.name": "shop",
        "model.checkpoint": str(weights),
        "train.batch_size": "2",
        "run_dir": str(tmp_path / "run"),
        "trial": "false",
    }


@pytest.fixture
def examined(options, capsys):
    """A function from more options to the rows by check and status, and the exit status, by `--json`."""

    def run(**more: object) -> tuple[dict[tuple[str, str], dict[str, str]], int]:
        given = {**options, **more}
        code = 0
        try:
            exit_cleanly(main)([*(f"{key}={value}" for key, value in given.items()), "--json"])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        said = capsys.readouterr()
        assert said.out, said.err
        content = json.loads(said.out)
        assert content["ok"] is (code == 0)
        return {(row["check"], row["status"]): row for row in content["checks"]}, code

    return run
