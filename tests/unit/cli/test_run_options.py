"""Which options a resumed run must share, and what an earlier run in its folder means for it."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from sam3_hyperet.cli.command import exit_cleanly, parse_command
from sam3_hyperet.cli.run_options import read_run
from sam3_hyperet.cli.train import main, open_folder
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.files import Manifest
from sam3_hyperet.training.run_folder import RunFolder

BASE = ["model.checkpoint=random", "experiment=smoke", "train.precision=32-true"]


@pytest.fixture
def opened(tmp_path):
    """A function that opens the run folder `run` for a command line."""

    def run(*arguments: str) -> RunFolder:
        config = parse_command("train", [*BASE, f"run_dir={tmp_path / 'run'}", *arguments])[1]
        values = OmegaConf.to_container(config, resolve=True)
        return open_folder(read_run(values), values)

    return run


@pytest.fixture
def earlier(tmp_path):
    """A function that leaves what a run of a command line leaves: its configuration and so named files."""

    def leave(*names: str, arguments: tuple[str, ...] = ()) -> None:
        config = parse_command("train", [*BASE, f"run_dir={tmp_path / 'run'}", *arguments])[1]
        (tmp_path / "run").mkdir()
        RunFolder(tmp_path / "run").prepare()
        (tmp_path / "run" / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
        for name in names:
            (tmp_path / "run" / name).write_text("earlier")

    return leave


def test_a_run_goes_on_whose_sites_had_another_name(opened, earlier):
    earlier("state.pt", arguments=("scheme=A", "hyperet.sites=[encoder_layer,prompt]"))
    assert opened("scheme=B+prompt").resume is not None
    with pytest.raises(ConfigError, match=r"hyperet\.scheme is B, but A in the run"):
        opened("scheme=B")


DECIDING = [
    ("train.clip_norm=0.5", "train.clip_norm is 0.5, but None"),
    ("train.precision=bf16-mixed", "train.precision is bf16-mixed, but 32-true"),
    ("train.validate_every=3", "train.validate_every is 3, but 2"),
    ("train.devices=2", "train.devices is 2, but 1"),
    ("hyperet.curvature=0.02", "hyperet.curvature is 0.02, but 0.01"),
    ("seed=5", "seed is 5, but 0"),
    ("data.flip=0.25", "data.flip is 0.25"),
    ("optim.lr=0.1", "optim.lr is 0.1"),
    ("loss.alignment=1", "loss.alignment is 1, but 0.0"),
    ("model.seed=3", "model.seed is 3, but 0"),
]


@pytest.mark.parametrize(
    ("option", "message", "left"),
    [(*one, "state.pt") for one in DECIDING]
    + [(*DECIDING[0], left) for left in ("adapter.safetensors", "weights.safetensors")],
)
def test_another_run_is_neither_resumed_nor_replaced(opened, earlier, tmp_path, option, message, left):
    """Also where there is no saved state to go on from."""
    earlier(left)
    opened()
    with pytest.raises(ConfigError, match=rf"{message}.* in the run of .*run.*; use another run_dir, or resume=never"):
        opened(option)
    opened(option, "resume=never")
    assert (tmp_path / "run" / left).read_text() == "earlier"


def test_a_place_by_another_name_is_no_difference(opened, earlier, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    earlier("state.pt", arguments=("data.root=data",))
    opened(f"data.root={tmp_path / 'data'}")
    with pytest.raises(ConfigError, match=r"data\.root is /elsewhere, but data in the run of"):
        opened("data.root=/elsewhere")


def test_a_precision_that_the_job_decides_is_no_difference(opened, earlier):
    """`auto` on a machine that submits may be what the run had: the job compares what it became there."""
    earlier("state.pt")
    opened("train.precision=auto")


def test_a_rounded_cache_decides_and_where_it_lies_does_not(opened, earlier, tmp_path):
    earlier("adapter.safetensors")
    opened("cache.dtype=bfloat16")  # of no cache
    opened(f"cache.folder={tmp_path / 'features'}")
    with pytest.raises(ConfigError, match=r"cache.dtype is bfloat16, but float32"):
        opened(f"cache.folder={tmp_path / 'features'}", "cache.dtype=bfloat16")


@pytest.mark.parametrize(
    "option",
    [
        "train.workers=2",
        "train.log_every=7",
        "train.save_every=0",
        "train.threads=1",
        "evaluate=false",
        "logger=none",
        "train.checkpoint_activations=true",
        "protocol.examples=1",
        "data.groups_note=toys",
    ],
)
def test_what_decides_nothing_may_change(opened, earlier, option):
    earlier("state.pt")
    assert opened(option).resume is not None


def test_the_protocol_decides_where_the_best_step_is_that_of_a_metric(opened, earlier):
    earlier("state.pt", arguments=("train.best=segm/AP",))
    opened("train.best=segm/AP", "protocol.examples=1")
    with pytest.raises(ConfigError, match=r"protocol.mask_threshold is 0.4, but 0.5 in the run of"):
        opened("train.best=segm/AP", "protocol.mask_threshold=0.4")


def test_what_is_rehearsed_decides_with_the_precision_of_its_answers(opened, earlier, tmp_path):
    """A run of a version that had no rehearsal goes on."""
    known = "model.checkpoint=null"
    earlier("state.pt", arguments=(known,))
    file = tmp_path / "run" / "config.yaml"
    before = OmegaConf.load(file)
    del before["rehearsal"]
    file.write_text(OmegaConf.to_yaml(before))
    assert opened(known, "protocol.precision=bf16-mixed").resume is not None
    with pytest.raises(ConfigError, match=r"rehearsal.names is car, but not there in the run of"):
        opened(known, "rehearsal.names=car")
    with pytest.raises(
        ConfigError, match=r"rehearsal.names: the base has random weights, which know nothing to rehearse"
    ):
        opened("rehearsal.names=car")
    config = parse_command("train", [*BASE, known, f"run_dir={tmp_path / 'run'}", "rehearsal.names=car"])[1]
    file.write_text(OmegaConf.to_yaml(config, resolve=True))
    assert opened(known, "rehearsal.names=car", "protocol.examples=1").resume is not None
    with pytest.raises(ConfigError, match=r"rehearsal.precision is bf16-mixed, but auto in the run of"):
        opened(known, "rehearsal.names=car", "protocol.precision=bf16-mixed")


def test_what_is_kept_decides_where_the_step_is_chosen_by_it(opened, earlier, tmp_path):
    known = ("model.checkpoint=null",)
    earlier("state.pt", arguments=known)
    assert opened(*known, "kept.names=[car]").resume is not None
    with pytest.raises(ConfigError, match=r"kept\.names=\('car',\): with evaluate=false, .* nobody asks for them"):
        main([*BASE, f"run_dir={tmp_path / 'run'}", *known, "kept.names=[car]", "evaluate=false"])
    with pytest.raises(ConfigError, match=r"kept\.names: the base has random weights, .* nothing that could be kept"):
        opened("kept.names=[car]")
    rule = (*known, "train.best=kept/segm/AP")
    config = parse_command("train", [*BASE, *rule, f"run_dir={tmp_path / 'run'}"])[1]
    (tmp_path / "run" / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    with pytest.raises(ConfigError, match=r"kept\.names is \('car',\), but None in the run of"):
        opened(*rule, "kept.names=[car]", "evaluate=false")


def test_every_option_decides_unless_it_is_named(opened):
    """A new option is taken to decide."""
    config = parse_command("train", BASE)[1]
    deciding = read_run(OmegaConf.to_container(config, resolve=True)).deciding
    left_out = {
        f"train.{key}" for key in config.train if f"train.{key}" not in deciding
    }  # of the only section that has both
    assert left_out == {
        f"train.{name}"
        for name in (
            "epochs",
            "memory",
            "memory_gb",
            "workers",
            "log_every",
            "save_every",
            "max_bad_steps",
            "threads",
            "accelerator",
            "checkpoint_activations",
        )
    }
    assert {key.partition(".")[0] for key in deciding} == {
        "train",
        "optim",
        "stage",
        "radius",
        "model",
        "hyperet",
        "data",
        "loss",
        "cache",
        "init_adapter",
        "seed",
    }


def test_steps_that_follow_from_epochs(opened, earlier, tmp_path):
    """A resumed run has the steps that the first start has saved; they are compared once the data is opened."""
    epochs = ("train.epochs=3", "optim.warmup=0")
    earlier("state.pt", arguments=epochs)
    file = tmp_path / "run" / "config.yaml"
    saved = OmegaConf.load(file)
    assert (saved.train.epochs, saved.train.max_steps) == (3.0, None)
    opened(*epochs)  # a job that was submitted and has not begun
    config = parse_command("train", [*BASE, f"run_dir={tmp_path / 'run'}", *epochs])[1]
    values = OmegaConf.to_container(config, resolve=True)
    options = read_run(values)
    known = options.of_images(41)
    assert known.train.max_steps == 62  # of two images
    assert known.train.length == "62 steps of 2 images (train.epochs=3)"
    saved.train.max_steps = 62
    file.write_text(OmegaConf.to_yaml(saved))
    assert opened(*epochs).resume
    assert open_folder(known, values).resume
    assert opened("train.max_steps=62", "optim.warmup=0").resume
    with pytest.raises(ConfigError, match=r"train.max_steps is 75, but 62 in the run of"):
        open_folder(options.of_images(50), values)


def test_a_run_that_came_to_nothing_is_in_nobody_s_way(opened, earlier):
    earlier("metrics.jsonl")
    opened("optim.lr=0.1")


def test_a_file_of_somebody_else_is_left_alone(opened, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "report.html", "tensorboard"):
        file = tmp_path / "run" / name
        file.write_text("mine")
        with pytest.raises(ConfigError, match=rf"{name} is there and was not written by an earlier run"):
            opened("resume=never")
        assert file.read_text() == "mine"
        file.unlink()
    (tmp_path / "run" / "report.html").touch()
    opened("evaluate=false").prepare()
    opened("evaluate=false", "resume=never").prepare()
    assert (tmp_path / "run" / "report.html").exists()


def test_a_fresh_start_removes_what_the_run_before_wrote_and_nothing_else(opened, earlier, tmp_path):
    products = ("adapter.safetensors", "report.html", "metrics.json", "state.pt", "metrics.jsonl")
    earlier(*products, "notes.txt")
    for name in ("report.html", "metrics.json"):
        (tmp_path / "run" / name).unlink()
    Manifest(tmp_path / "run").claim("report.html", "metrics.json", "records/base")
    (tmp_path / "run" / "records" / "base").mkdir(parents=True)
    (tmp_path / "run" / "report.html").touch()
    (tmp_path / "run" / "metrics.json").touch()
    opened().prepare()  # goes on
    assert {file.name for file in (tmp_path / "run").iterdir()} >= {*products}
    opened("resume=never").prepare()
    left = {file.name for file in (tmp_path / "run").iterdir()}
    assert left == {".sam3_hyperet.json", "config.yaml", "notes.txt", "records"}
    assert not list((tmp_path / "run" / "records").iterdir())
    assert "notes.txt" not in Manifest(tmp_path / "run").names


def test_a_state_that_is_not_there(opened):
    with pytest.raises(CheckpointError, match=r"resume=/nowhere/state.pt: no such file"):
        opened("resume=/nowhere/state.pt")


def test_a_folder_in_use(tmp_path, capsys, monkeypatch):
    """Of two runs that are started in the same second, say; `held` stands for the other process."""
    monkeypatch.setattr("sam3_hyperet.files._try_lock", lambda _: None)
    with pytest.raises(SystemExit) as exit_:
        exit_cleanly(main)([*BASE, f"run_dir={tmp_path}"])
    assert exit_.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: run_dir={tmp_path} is in use by another process; expected another run_dir")
    assert error.count("\n") == 1
