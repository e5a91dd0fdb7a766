"""The losses between queries and texts, and a moving curvature, as options of `tools/train.py`."""

from __future__ import annotations

import json

import pytest
import torch
from mortal_runs import killed_once_saved

import sam3_hyperet as hy
from sam3_hyperet.cli.train import main
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.opening import open_model
from sam3_hyperet.modeling.tensor_files import read_safetensors

pytestmark = pytest.mark.integration
OPTIONS = [
    "loss.alignment=1",
    "loss.entailment=0.2",
    "loss.query=random",
    "loss.prune_probability=0.5",
    "evaluate=false",
]
TERMS = {"alignment_loss", "entailment_loss"}


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("/seconds")} for line in found]


def steps(folder):
    return [line for line in lines(folder) if "train/loss" in line]


def test_a_resumed_run_is_the_uninterrupted_run(scenes, tmp_path):
    options = [*scenes, *OPTIONS, "radius=dynamic", "radius.patience=1", "radius.tolerance=0.5"]
    whole = main([*options, f"run_dir={tmp_path / 'whole'}"])
    cut = [*options, f"run_dir={tmp_path / 'cut'}"]
    killed_once_saved(main, cut)
    torch.rand(5)
    main(cut)
    assert lines(whole) == lines(tmp_path / "cut")
    for name in ("adapter.safetensors", "adapter_last.safetensors"):
        (first, about), (second, other) = (read_safetensors(tmp_path / run / name) for run in ("whole", "cut"))
        assert about == other
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    for line in lines(whole):
        assert {f"{'train' if 'train/loss' in line else 'tune'}/{name}" for name in TERMS} <= line.keys()
    course = [line["radius_control/curvature"] for line in steps(whole)]
    assert len(set(course)) > 1
    with pytest.raises(ConfigError, match=r"radius\.schedule is constant, but dynamic in the run of"):
        main([*scenes, *OPTIONS, f"run_dir={tmp_path / 'cut'}"])


def test_the_adapter_file_has_the_curvature_that_a_schedule_ends_at(scenes, tmp_path):
    folder = main(
        [*scenes, "scheme=A", "evaluate=false", "radius=linear", "radius.target=0.05", f"run_dir={tmp_path / 'run'}"]
    )
    for key in ("radius_control/curvature", "adapter/fpn.0/curvature"):
        assert [line[key] for line in steps(folder)] == pytest.approx([0.01, 0.02, 0.03, 0.04], rel=1e-4)
    model = hy.load_adapter(open_model({"checkpoint": _checkpoint(scenes)}), folder / "adapter_last.safetensors")
    assert float(model.backbone.fpn_adjustment.level(0).curvature()) == pytest.approx(0.05, rel=1e-4)


def _checkpoint(scenes):
    return next((option.partition("=")[2] for option in scenes if option.startswith("model.checkpoint=")), None)


def test_both_are_off_by_default(trained):
    assert not [key for line in lines(trained) for key in line if "alignment" in key or "radius_control" in key]
    assert not [key for key in read_safetensors(trained / "adapter_last.safetensors")[0] if "curvature" in key]
