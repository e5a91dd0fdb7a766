"""A run on two data sets for so many epochs that begins with the adapter of another run."""

from __future__ import annotations

import json

import pytest
from noise_tree import write_noise_tree
from omegaconf import OmegaConf
from safetensors.torch import load_file

from sam3_hyperet.cli.train import main
from sam3_hyperet.digest import sha256

pytestmark = pytest.mark.integration


def test_epochs_more_data_and_a_warm_start(trained, scenes, tmp_path, capsys):
    shop, run = tmp_path / "shop", tmp_path / "run"
    write_noise_tree(
        shop, [{"id": 1, "name": "apple"}, {"id": 2, "name": "tin"}], {"train": 4}, (64, 96), [8, 8, 40, 8, 40, 40]
    )
    more = ["more_data.shop=auto", f"more_data.shop.root={shop}", "more_data.shop.weight=3"]
    length = ["train.epochs=0.25", "train.save_every=2", "evaluate=false"]
    command = [*scenes, *more, *length, f"init_adapter={trained}", "optim.lr=1e-12", f"run_dir={run}"]
    main(command)
    said = capsys.readouterr().out
    assert "3 steps of 2 images (train.epochs=0.25)" in said
    assert "data: 25.0% of all images are of scenes; its 6 are seen 0.25 times each" in said
    assert f"begins with the adapter of {trained / 'adapter.safetensors'} (SHA-256 " in said
    assert OmegaConf.load(run / "config.yaml").train.max_steps == 3
    digest = sha256(trained / "adapter.safetensors")
    assert json.loads((run / "versions.json").read_text())["init_adapter"] == digest
    before, after = load_file(trained / "adapter.safetensors"), load_file(run / "adapter_last.safetensors")
    assert max(float((before[name] - after[name]).abs().max()) for name in before) < 1e-9
    main(command)  # from the saved state
    assert "begins with" not in capsys.readouterr().out
    assert json.loads((run / "versions.json").read_text())["init_adapter"] == digest
    assert all((load_file(run / "adapter_last.safetensors")[name] == value).all() for name, value in after.items())
