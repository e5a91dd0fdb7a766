"""Training end to end: what a run leaves behind, and that an interrupted one loses nothing."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import pytest
import torch
from mortal_runs import Killed, killed_once_saved
from omegaconf import OmegaConf

from sam3_hyperet.cli.predict import main as predict
from sam3_hyperet.cli.train import main
from sam3_hyperet.digest import tensors_sha256
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.modeling.adapter_file import read_adapter_config
from sam3_hyperet.modeling.tensor_files import read_safetensors

pytestmark = pytest.mark.integration


def same_adapters(a: Path, b: Path, name: str = "adapter_last.safetensors") -> bool:
    (first, about), (second, other) = (read_safetensors(folder / name) for folder in (a, b))
    same = first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    return same and about == other


def steps(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("/seconds")} for line in lines]


def test_what_a_run_leaves_behind(trained, read_metrics):
    files = {path.name for path in trained.iterdir()}
    assert files == {
        ".sam3_hyperet.json",
        "adapter.safetensors",
        "adapter_last.safetensors",
        "comparison.md",
        "comparison.tex",
        "config.yaml",
        "metrics.json",
        "metrics.jsonl",
        "report.html",
        "state.pt",
        "previous_state.pt",
        "tensorboard",
        "versions.json",
    }
    assert list((trained / "tensorboard").glob("events.*"))
    assert [line["step"] for line in steps(trained) if "train/loss" in line] == [1, 2, 3, 4]
    config = read_adapter_config(trained / "adapter.safetensors")
    assert (config.scheme, config.structure, config.geometry) == ("B+prompt", "dense", "lorentz")
    metrics = read_metrics(trained)
    precision = OmegaConf.load(trained / "config.yaml").train.precision
    assert (metrics.pop("precision"), precision) == ("32-true", "32-true")  # what `auto` became
    assert metrics.pop("protocol")["precision"] == "32-true"
    assert metrics.pop("adapter_tensors_sha256") == tensors_sha256(trained / "adapter.safetensors")
    assert (metrics["data"]["split"], metrics.pop("data")["images"]) == ("val", 3)
    assert all(isinstance(value, int | float) and math.isfinite(value) for value in metrics.values())
    assert (
        metrics["params/trainable"]
        == metrics["params/added"]
        == sum(tensor.numel() for tensor in read_safetensors(trained / "adapter.safetensors")[0].values())
    )
    assert 0 < metrics["params/added_ratio"] < 0.01
    assert (metrics["train/steps"], metrics["train/skipped_steps"]) == (4, 0)
    assert metrics["train/best_step"] in (2, 4)
    for key in (
        "segm/AP",
        "bbox/AP50",
        "part/segm/AP",
        "group/segm/AP",
        "presence/accuracy_absent",
        "object/presence/accuracy_present",
        "fused/mIoU",
        "instance/unassigned",
        "speed/images_per_s",
    ):
        assert {f"scenes/{key}", f"base/scenes/{key}"} <= metrics.keys()
    for place in ("encoder_layer.0", "encoder_layer.1", "prompt"):
        assert metrics[f"radius/{place}/mean"] > 0
        assert metrics[f"base/radius/{place}/mean"] > 0
        assert metrics[f"radius/{place}/mean"] != metrics[f"base/radius/{place}/mean"]


def test_the_report_stands_alone(trained):
    text = (trained / "report.html").read_text()
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    for outside in ('src="http', "src='http", 'href="http', "@import", "url(http"):
        assert outside not in text
    assert "data:image/" in text
    assert "max_steps: 4" in text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_uninterrupted_run(trained, scenes, tmp_path, workers):
    """Killed right after the state of step 2 was written; `trained` is the same run without the interruption."""

    command = [*scenes, f"run_dir={tmp_path}", f"train.workers={workers}", "evaluate=false"]
    killed_once_saved(main, command)
    assert [line["step"] for line in steps(tmp_path) if "train/loss" in line] == [1, 2]
    assert not (tmp_path / "adapter_last.safetensors").exists()
    torch.rand(5)
    assert main(command) == tmp_path
    assert steps(tmp_path) == steps(trained)
    assert same_adapters(tmp_path, trained)
    assert same_adapters(tmp_path, trained, "adapter.safetensors")
    assert not (tmp_path / "metrics.json").exists()  # evaluate=false


def test_a_run_killed_in_its_evaluation_trains_nothing_again(scenes, tmp_path, monkeypatch, capsys):
    """It goes on with the images that are already scored; the last step is no multiple of `save_every`."""
    command = [*scenes, f"run_dir={tmp_path}", "train.save_every=3", "train.validate_every=0"]
    command += ["protocol.workers=0", "protocol.examples=0", "protocol.limit=2"]
    write, left = RecordStore.write, iter(range(2))

    def write_two(*arguments):
        if next(left, None) is None:
            raise Killed
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RecordStore, "write", write_two)
        with pytest.raises(Killed):
            main(command)
    trained, records = steps(tmp_path), {path: path.stat().st_mtime_ns for path in tmp_path.glob("records/*/*.npz")}
    assert len(records) == 2
    monkeypatch.setattr("sam3_hyperet.training.loop.optimize", lambda *_, **__: pytest.fail("trained again"))
    written = []
    monkeypatch.setattr(RecordStore, "write", lambda *arguments: written.append(1) or write(*arguments))
    capsys.readouterr()
    main(command)
    assert steps(tmp_path) == trained
    assert len(written) == 2 * 2 - 2
    said = " ".join(capsys.readouterr().out.split())
    assert "the training of this run ended after step 4" in said
    assert "adapted: goes on with 1 of 2 images" in said
    assert (tmp_path / "report.html").is_file()


def test_a_finished_run_starts_over_only_when_told_to(scenes, tmp_path, trained):
    command = [*scenes, f"run_dir={tmp_path}", "evaluate=false", "train.save_every=4"]
    main(command)
    (tmp_path / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 5)))
    main(command)
    assert [set(line) for line in steps(tmp_path)] == [{"step"}] * 4  # it did no step more
    main([*command, "resume=never", "train.save_every=0"])
    assert steps(tmp_path) == steps(trained)
    assert not (tmp_path / "state.pt").exists()  # that of the run which this one replaced
    assert same_adapters(tmp_path, trained)


def test_a_run_of_another_configuration_is_not_resumed(scenes, tmp_path):
    command = [*scenes, f"run_dir={tmp_path}", "evaluate=false", "train.validate_every=0"]
    main(command)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"structure is diagonal, but dense in the run of .*state.pt"):
        main([*command, "structure=diagonal"])
    assert (tmp_path / "config.yaml").read_text() == before
    with pytest.raises(CheckpointError, match=r"resume=nowhere.pt: no such file"):
        main([*command, "resume=nowhere.pt"])


def test_without_adapters_everything_trains(scenes, tmp_path, read_metrics):
    """The recipe of the packaged weights: no scheme, stage 3; the weights are kept in place of an adapter."""
    few = ["train.max_steps=2", "protocol.limit=1", "protocol.examples=0"]
    folder = main([*scenes, f"run_dir={tmp_path}", "scheme=none", "stage=3", "model.checkpoint=random", *few])
    metrics = read_metrics(folder)
    assert metrics["params/added"] == 0
    assert metrics["params/trainable"] == metrics["params/total"]
    assert not [key for key in metrics if key.startswith("base/")]
    assert {"weights.safetensors", "weights_last.safetensors"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "adapter.safetensors").exists()


def test_the_tool_itself(training, tmp_path):
    done = training.process
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    for part in (
        "parameters train",
        "adapters: ",
        "learning rate 0.003, weight decay 0\n",
        "scenes: 6 images, 25 categories",
        "scenes/segm/AP",
        "report.html",
        "next: ",
    ):
        assert part in done.stdout
    (following,) = (line.partition("next: ")[2] for line in done.stdout.splitlines() if line.startswith("next: "))
    _, script, *arguments = shlex.split(following)
    assert Path(script).name == "predict.py"
    predicted = predict([*arguments, f"run_dir={tmp_path / 'predicted'}"])
    assert len(json.loads((predicted / "predictions.json").read_text())["pictures"]) == 1
