"""`sam3-hyperet doctor`: rows for people, runs by their folder, and the checks before a job is submitted."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from sam3_hyperet.cli.command import exit_cleanly, parse_command
from sam3_hyperet.cli.doctor import check_before_submission, main, setup_of
from sam3_hyperet.cli.train import main as train
from sam3_hyperet.doctor import cluster
from sam3_hyperet.doctor.examination import examine
from sam3_hyperet.doctor.findings import failed, ok, warning
from sam3_hyperet.doctor.sizes import Sizes
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import Manifest
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.modeling.adapter_file import save_adapter
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.modeling.inject import inject
from sam3_hyperet.training.options import FitOptions, StageOptions, TrainOptions

SLURM = ["launcher=slurm", "experiment=smoke"]


@pytest.fixture
def examined(monkeypatch):
    """A function that replaces all checks by these rows; returns the list of what was examined."""

    def rows(*found):
        setups = []
        monkeypatch.setattr("sam3_hyperet.cli.doctor.examine", lambda setup: setups.append(setup) or iter(found))
        return setups

    return rows


def test_rows_for_people(examined, capsys):
    examined(ok("disk", "3 GiB free"), failed("hub", "nobody is logged in", "a login", "hf auth login"))
    with pytest.raises(SystemExit, match="1"):
        main(["run_dir=x"])
    assert capsys.readouterr().out.splitlines() == [
        "ok       disk             3 GiB free",
        "failed   hub              nobody is logged in",
        "                          expected: a login",
        "                          remedy: hf auth login",
        "",
        "2 checks: 1 ok, 1 failed",
    ]


def test_nothing_failed(examined, capsys):
    examined(ok("disk", "3 GiB free"), warning("cores", "1 core"))
    main(["run_dir=x"])
    assert capsys.readouterr().out.endswith("\n2 checks: 1 ok, 1 warning; nothing was found that would fail\n")


@pytest.mark.parametrize(
    ("argument", "found", "expected"),
    [
        ("train.batch_size=0", "train.batch_size=0", "an integer from 1"),
        ("data=nope.yaml", "data=nope.yaml: nope.yaml does not exist", ""),
        ("run=nowhere", "run=nowhere: nowhere/config.yaml does not exist", "the folder of a training run"),
        ("launcher=slurm launcher.gpus_per_node=4", "launcher.gpus_per_node=4, but train.devices=1", "the same number"),
        (
            "train.max_steps=3 optim.warmup=20",
            "optim.warmup=20",
            "a fraction below 1, or steps up to train.max_steps=3",
        ),  # before a model is built
    ],
)
def test_options_that_cannot_be_are_a_row_in_json(argument, found, expected, capsys):
    with pytest.raises(SystemExit, match="1"):
        exit_cleanly(main)([*argument.split(), "--json"])
    content = json.loads(capsys.readouterr().out)
    remedy = {"check": "options", "status": "failed", "found": found, "expected": expected, "remedy": ""}
    assert content["ok"] is False
    assert content["checks"] == [remedy]
    with pytest.raises(SystemExit, match="1"):
        exit_cleanly(main)(argument.split())
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith(f"error: {found}")


def test_a_run_by_its_folder(examined, tmp_path):
    config = parse_command("train", ["scheme=B", "train.max_steps=27", f"run_dir={tmp_path}"])[1]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    (tmp_path / "adapter.safetensors").touch()
    setups = examined(ok("disk", "free"))
    main([f"run={tmp_path}"])
    [setup] = setups
    assert (setup.hyperet.scheme, setup.fit.train.max_steps, setup.run_dir) == ("B", 27, tmp_path)
    assert setup.adapter == tmp_path / "adapter.safetensors"


def test_options_beside_a_run_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="scheme=A beside run="):
        main([f"run={tmp_path}", "scheme=A"])


def test_the_adapter_of_a_run_belongs_to_its_base(tmp_path, capsys):
    arguments = ["experiment=smoke", "model.checkpoint=random", f"run_dir={tmp_path}", f"paths.scenes={tmp_path}"]
    Manifest(tmp_path).claim("config.yaml", "adapter.safetensors")
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(parse_command("train", arguments)[1], resolve=True))
    save_adapter(inject(build_model("tiny", checkpoint="random"), {"scheme": "A"}), tmp_path / "adapter.safetensors")
    rows = {row.check: row for row in main([f"run={tmp_path}"])}
    assert f"{tmp_path}/adapter.safetensors belongs to this base" in rows["adapter"].found
    assert rows["training step"].status == "ok"
    assert rows["checkpoint"].status == "warning"  # random weights
    assert "nothing was found that would fail" in capsys.readouterr().out


def test_a_job_that_would_fail_is_not_submitted(examined, tmp_path, capsys):
    setups = examined(failed("partition", "launcher.partition=gpu", "one of long", "launcher.partition=long"))
    with pytest.raises(SystemExit, match="1"):
        exit_cleanly(train)([*SLURM, f"run_dir={tmp_path / 'run'}"])
    error = capsys.readouterr().err
    assert (
        f"error: {tmp_path / 'run'} would fail: partition: launcher.partition=gpu; expected one of long; remedy: l"
        in error
    )
    assert "remedy: launcher.partition=long; mend it, or submit it as it is with launcher.doctor=false" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert setups[0].is_submitted


def test_warnings_are_printed_once_and_the_checks_can_be_switched_off(examined, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sam3_hyperet.cli.submit.submit", lambda executor, jobs: [f"7_{i}" for i in range(len(jobs))])
    monkeypatch.setattr("sam3_hyperet.cli.submit.open_executor", lambda *arguments: None)
    setups = examined(warning("partition", "old is down"))
    train([*SLURM, "optim.lr=1e-3,2e-3", f"run_dir={tmp_path / 'run'}"])
    out = capsys.readouterr().out
    assert out.count("warning  partition        old is down") == 1
    assert out.count("submitted 7_") == 2
    assert len(setups) == 1  # runs that differ in their learning rate alone are checked once
    train([*SLURM, "launcher.doctor=false", f"run_dir={tmp_path / 'other'}"])
    assert len(setups) == 1


def test_what_is_checked_before_a_job(monkeypatch, tmp_path):
    """Nothing of this machine's devices, and no model is built."""
    monkeypatch.setattr("sam3_hyperet.doctor.machine.find_gpus", pytest.fail)
    monkeypatch.setattr("sam3_hyperet.doctor.examination._tried", pytest.fail)
    monkeypatch.setattr("shutil.which", lambda name, *rest: f"/usr/bin/{name}")
    monkeypatch.setattr(cluster, "_sinfo", lambda: "long*|infinite|up\n")
    values = OmegaConf.to_container(parse_command("train", [*SLURM, f"run_dir={tmp_path / 'run'}"])[1], resolve=True)
    [line] = check_before_submission(values)  # pytest's folder is of one machine
    assert "is of this machine alone" in line


def test_an_adapter_to_begin_with_is_looked_at_before_a_job(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name, *rest: f"/usr/bin/{name}")
    monkeypatch.setattr(cluster, "_sinfo", lambda: "long*|infinite|up\n")
    missing = tmp_path / "adapter.safetensors"
    with pytest.raises(ConfigError, match=rf"run would fail: run folder: init_adapter: {missing}: no such file"):
        train([*SLURM, f"init_adapter={missing}", f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_a_folder_that_only_the_nodes_see(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name, *rest: f"/usr/bin/{name}")
    monkeypatch.setattr(cluster, "_sinfo", lambda: "long*|infinite|up\n")
    arguments = [*SLURM, "experiment=none", "data=auto", "data.root=/nodes/only", f"run_dir={tmp_path / 'run'}"]
    rows = {row.check: row for row in examine(setup_of(_plain(arguments)))}
    assert (rows["data"].status, rows["data"].found) == ("failed", "/nodes/only is no folder on this machine")
    assert "launcher.doctor=false where only the job's nodes see it" in rows["data"].remedy
    assert "gpu" not in rows
    assert rows["model"].status == "skipped"
    with pytest.raises(ConfigError, match="run would fail: data: /nodes/only is no folder on this machine"):
        train(arguments)
    assert not (tmp_path / "run").exists()


def test_the_memory_of_a_job():
    sizes, memory = (
        Sizes(ModelOptions("tiny"), HyperETConfig(), FitOptions(train=TrainOptions(max_steps=20, batch_size=1))),
        [],
    )
    list(sizes.rows())
    for gigabytes in (None, 0.01, 4.0):
        memory += sizes.job_memory_rows(SlurmOptions(mem_gb=gigabytes, tasks_per_node=2))
    assert [row.status for row in memory] == ["ok", "failed", "ok"]
    assert "the cluster's default; a node needs 35 MiB and more" in memory[0].found
    assert "free by launcher.mem_gb" in memory[1].found
    assert memory[1].remedy == "launcher.mem_gb=1 or more"


@pytest.mark.parametrize("gpus", [{"gpus_per_node": 8}, {"additional": {"gres": "gpu:8"}}])
def test_the_memory_of_a_job_with_gpus_is_that_of_the_weights(gpus):
    """Gradients and moments are on the GPUs; a forecast of what trains everything refused nodes of half the size."""
    fit = FitOptions(train=TrainOptions(max_steps=20, batch_size=1), stage=StageOptions(number=3))
    sizes = Sizes(ModelOptions("tiny"), HyperETConfig(), fit)
    list(sizes.rows())
    found = [
        next(sizes.job_memory_rows(SlurmOptions(mem_gb=0.2, tasks_per_node=8, **options))) for options in ({}, gpus)
    ]
    assert [row.status for row in found] == ["failed", "ok"]
    assert "weights of 8 processes: 1" in found[1].found


def _plain(arguments):
    return OmegaConf.to_container(parse_command("doctor", arguments)[1], resolve=True)
