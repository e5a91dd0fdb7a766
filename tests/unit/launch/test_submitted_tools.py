"""`launcher=slurm` of evaluate, predict and benchmark: what is submitted, and mistakes that are found before."""

from __future__ import annotations

import json
import re
import signal

import numpy as np
import pytest
from one_line_errors import error_of
from PIL import Image

import sam3_hyperet as hy
from sam3_hyperet.cli.benchmark import main as benchmark
from sam3_hyperet.cli.evaluate import main as evaluate
from sam3_hyperet.cli.predict import main as predict
from sam3_hyperet.cli.train import main as train
from sam3_hyperet.doctor import cluster
from sam3_hyperet.files import Manifest

SLURM = ["launcher=slurm", "launcher.cpus_per_task=1"]
RANDOM = ["model=tiny", "model.checkpoint=random"]
SCENES = ["data=scenes", "data.splits.val=2"]


@pytest.fixture
def submitted(monkeypatch):
    """The jobs that reach a Slurm that is none."""
    jobs = []

    def submit(executor, given):
        jobs.extend(given)
        return [f"7_{i}" for i in range(len(given))]

    monkeypatch.setattr("shutil.which", lambda name, *rest: f"/usr/bin/{name}")
    monkeypatch.setattr(cluster, "_sinfo", lambda: "long*|infinite|up\n")
    monkeypatch.setattr("sam3_hyperet.cli.submit.open_executor", lambda *arguments: None)
    monkeypatch.setattr("sam3_hyperet.cli.submit.submit", submit)
    return jobs


@pytest.fixture
def adapter(another, tmp_path):
    hy.save_adapter(hy.inject(another(), hy.HyperETConfig(structure="diagonal")), tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors"


@pytest.fixture
def picture_file(tmp_path):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_sweep_of_evaluations_is_an_array(submitted, adapter, tmp_path, capsys):
    folder = tmp_path / "out"
    sweep = [f"adapter={adapter},null", "devices=2", "launcher.gpus_per_node=2", f"paths.scenes={tmp_path}"]
    assert evaluate([*SLURM, *RANDOM, *SCENES, *sweep, f"run_dir={folder}"]) == folder
    assert not folder.exists()  # a job makes it; before, nothing is drawn and nothing written
    assert [job.config["adapter"] for job in submitted] == [str(adapter), None]
    for job in submitted:
        assert (job.function, job.state) == ("sam3_hyperet.cli.evaluate:evaluate_job", "records")
        assert job.config["launcher"]["tasks_per_node"] == job.config["devices"] == 2
    out = capsys.readouterr().out
    last = submitted[1].config["run_dir"]
    assert last == f"{folder}/evaluate-adapter-null"
    assert f"submitted 7_1: {last}; log: {folder}/slurm/7_1_0_log.out; to end it: scancel 7_1" in out
    assert "asked for: 1 x 2 processes; a node has 2 GPUs and the cluster's default memory; 240 min, then" in out


def test_a_submitted_prediction_leaves_what_the_command_would(submitted, picture_file, tmp_path, monkeypatch):
    """Its prompts with commas are no sweep."""
    predict([*SLURM, *RANDOM, f"images={picture_file}", "prompts=car,wheel", f"run_dir={tmp_path / 'out'}"])
    [job] = submitted
    assert (job.state, job.config["resume"]) == ("records/predicted", "auto")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("MASTER_PORT", "1")
    before = signal.getsignal(signal.SIGTERM)
    try:
        job()
    finally:
        signal.signal(signal.SIGTERM, before)
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [prompt["prompt"] for prompt in found["pictures"][0]["prompts"]] == ["car", "wheel"]
    assert found["precision"] == "32-true"


def test_a_benchmark_is_submitted_with_its_options(submitted):
    assert benchmark(["ops", *SLURM, "channels=8", "out=figures.json"]) == {}
    [job] = submitted
    assert job.config["subcommand"] == "ops"
    assert job.config["options"] == {"channels": 8, "size": 288, "repeats": 11, "threads": 2, "out": "figures.json"}


def test_a_run_that_is_to_begin_anew_does_so_after_a_restart_as_well(submitted, tmp_path, monkeypatch):
    """The job was requeued before it had removed what an earlier run of other options had left."""
    folder, seen = tmp_path / "run", []
    folder.mkdir()
    left = ("state.pt", "adapter.safetensors")
    Manifest(folder).claim(*left, "config.yaml")
    for name in (*left, "config.yaml", "notes.txt"):
        (folder / name).touch()
    options = ["experiment=smoke", "model.checkpoint=random", "launcher.doctor=false", "resume=never"]
    train([*SLURM, *options, f"run_dir={folder}"])
    assert not any((folder / name).exists() for name in left)
    assert (folder / "notes.txt").exists()
    assert "resume: never" in (folder / "config.yaml").read_text()
    [job] = submitted
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr("sam3_hyperet.cli.train.train_job", lambda config: seen.append(config.resume))
    before = signal.getsignal(signal.SIGTERM)
    try:
        job()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["never"]


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        (evaluate, ["data=coco", "paths.coco=/nowhere"], "data: /nowhere/? is no folder on this machine"),
        (evaluate, [*SCENES, "split=test"], "data: .* has no split 'test'"),
        (evaluate, [*SCENES, "adapter=/nowhere/a.safetensors"], "adapter: /nowhere/a.safetensors: no such file"),
        (evaluate, [*SCENES, "model.checkpoint=/nowhere/sam3.pt"], "checkpoint: .*/nowhere/sam3.pt"),
        (evaluate, [*SCENES, "run=/nowhere"], "run=/nowhere: /nowhere/config.yaml does not exist"),
        (evaluate, [*SCENES, "devices=2", "launcher.tasks_per_node=1"], "tasks_per_node=1, but devices=2"),
        (evaluate, [*SCENES, "device=cuda"], "device=cuda, but launcher.gpus_per_node=0"),
        (predict, ["images=/nowhere/a.png", "prompts=car"], "images: /nowhere/a.png: no such image or folder"),
        (predict, ["images=.", "prompts=car"], "images: .*no images in this folder"),
        (predict, ["images={picture}", f"prompts={'word ' * 35}"], "images: the prompt .* has 35 tokens"),
        (
            predict,
            ["images={picture}", "prompts=car", "adapter=/nowhere/a.safetensors"],
            "adapter: /nowhere/a.safetensors: no such file.*launcher.doctor=false",
        ),
        (
            predict,
            ["images={picture}", "prompts=car", "model=tiny", "model.checkpoint=/nowhere/sam3.pt"],
            "checkpoint: .*/nowhere/sam3.pt.*launcher.doctor=false",
        ),
        (predict, ["images={picture}", "prompts=car", "run=/nowhere"], "/nowhere/config.yaml does not exist"),
        (predict, ["images={picture}", "prompts=car", "launcher.nodes=2"], "launcher.nodes=2, but predict's nodes=1"),
        (predict, ["images={picture}", "prompts=car", "launcher.partition=gpu"], "partition: "),
    ],
)
def test_mistakes_are_found_before_anything_is_submitted(
    submitted, picture_file, tmp_path, monkeypatch, capsys, tool, arguments, message
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    given = [one.format(picture=picture_file) if one.startswith("images={") else one for one in arguments]
    own = [] if any(one.startswith(("run=", "model.checkpoint")) for one in given) else RANDOM
    out = tmp_path / "out"
    error, _ = error_of(tool, [*SLURM, *own, *given, f"run_dir={out}"], capsys, out)
    assert re.search(message, error), error
    assert not submitted
