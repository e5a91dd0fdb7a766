"""Weights say which drawn scenes they were trained on, and training says where it uses the same."""

from __future__ import annotations

import pytest
import torch
from omegaconf import OmegaConf

from sam3_hyperet.cli import pretrain, train
from sam3_hyperet.cli.base_pictures import base_remark
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.run_options import read_run
from sam3_hyperet.errors import CheckpointError, UserError
from sam3_hyperet.modeling.config import ModelOptions
from sam3_hyperet.modeling.tensor_files import write_safetensors


def sets(*arguments):
    return [read_run(OmegaConf.to_container(parse_command("train", arguments)[1], resolve=True)).data]


@pytest.fixture(scope="module")
def of_seed_7():
    return sets("data=scenes_levels", "data.seed=7", "data.splits.train=500")


def test_a_base_names_the_scenes_that_it_was_trained_on(base, of_seed_7, tmp_path, monkeypatch):
    config = parse_command("pretrain", ["experiment=pretrain_levels", "seed=7"])[1]
    monkeypatch.setattr(pretrain, "config_of_run", lambda run_dir: config)
    monkeypatch.setattr(pretrain, "build_model", lambda *given, **options: base)
    pretrain.save_best(tmp_path, tmp_path / "base.safetensors")
    remark = base_remark(ModelOptions(checkpoint=str(tmp_path / "base.safetensors")), of_seed_7)
    assert remark.startswith(
        "warning: base.safetensors was trained on the 3,000 scenes of data.seed=7 (scenes), of which scenes has 500 "
        "training images: expected pictures that are new to the base"
    )
    assert not base_remark(ModelOptions(), of_seed_7)
    assert not base_remark(ModelOptions(checkpoint="random"), of_seed_7)
    write_safetensors({"x": torch.zeros(1)}, tmp_path / "other.safetensors", {"trained_on": "[3]"})
    with pytest.raises(CheckpointError, match=r"its metadata trained_on is '\[3\]'; expected a list of mappings"):
        base_remark(ModelOptions(checkpoint=str(tmp_path / "other.safetensors")), of_seed_7)


def test_a_packaged_base_is_none_for_photographs(of_seed_7):
    photographs = sets("data=coco", "paths.coco=/data/coco")
    found = "warning: model=tiny is a toy that knows drawn scenes alone, of which coco has none; expected model=large"
    assert base_remark(ModelOptions("tiny"), [*of_seed_7, *photographs]).startswith(found)
    assert not base_remark(ModelOptions("tiny", "random"), photographs)
    assert not base_remark(ModelOptions("large", "sam3.pt"), photographs)


def test_training_on_the_pictures_of_the_packaged_base_is_said(tmp_path, monkeypatch, capsys):
    def stop(*given):
        raise UserError("the model would be built now")

    monkeypatch.setattr(train, "open_adapted_model", stop)
    few = ["experiment=smoke", "model=tiny_levels", "data=scenes_levels", "data.splits={train: 4, tune: 1, val: 1}"]
    arguments = [*few, f"paths.scenes={tmp_path / 'scenes'}", f"run_dir={tmp_path / 'run'}", "data.seed=101"]
    with pytest.raises(UserError, match="would be built now"):
        train.main(arguments)
    assert "was trained on the 3,000 scenes of data.seed=101 (scenes), of which scenes has 4" in capsys.readouterr().out
