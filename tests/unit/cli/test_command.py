"""What every command line shares: composition, checks of options, help, and one clear line for an error."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hydra
import pytest
from omegaconf import OmegaConf

from sam3_hyperet.cli import command
from sam3_hyperet.cli.command import CONFIGS, SECTIONS, command_line, exit_cleanly, parse_command
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.options import defaults, meanings

REPOSITORY = Path(__file__).resolve().parents[3]
DATA_SETS = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))


def composed(*arguments: str, tool: str = "train"):
    """The plain configuration of a command line."""
    return OmegaConf.to_container(parse_command(tool, arguments)[1])


def test_help_prints_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in ((["-h"], "coco|semantic"), (["coco", "--help"], "predictions: ???")):
        with pytest.raises(SystemExit) as exit_:
            parse_command("score", arguments)
        assert exit_.value.code == 0
        assert expected in capsys.readouterr().out


def test_a_tool_without_subcommands_and_with_groups(tmp_path: Path) -> None:
    (tmp_path / "shape").mkdir()
    (tmp_path / "shape/tiny.yaml").write_text("width: 8\n")
    (tmp_path / "shape/large.yaml").write_text("width: 80\n")
    (tmp_path / "shape/2.yaml").write_text("width: 2\n")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/none.yaml").write_text("# @package _global_\n{}\n")
    (tmp_path / "experiment/long.yaml").write_text("# @package _global_\nseed: 9\n")
    (tmp_path / "check.yaml").write_text("defaults: [_self_, shape: tiny, experiment: none]\nseed: 0\n")
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench/ops.yaml").write_text("defaults: [_self_, shape: tiny]\nseed: 0\n")
    assert parse_command("check", ["shape=2"], tmp_path)[1].shape.width == 2
    assert parse_command("check", ["experiment=long"], tmp_path)[1].seed == 9
    assert parse_command("check", ["seed=3"], tmp_path) == ("", {"seed": 3, "shape": {"width": 8}})
    assert parse_command("bench", ["ops", "shape=large"], tmp_path) == (
        "ops",
        {"seed": 0, "shape": {"width": 80}},
    )
    assert parse_command("bench", ["ops", "shape.width=1"], tmp_path)[1].shape.width == 1
    with pytest.raises(ConfigError, match="key 'sed' is unknown"):
        parse_command("bench", ["ops", "sed=1"], tmp_path)


def test_bugs_keep_their_traceback_and_the_environment_is_left_alone(monkeypatch, capsys):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    seen = []

    @exit_cleanly
    def fail(error):
        seen.append(dict(os.environ))
        raise error

    before = dict(os.environ)
    with pytest.raises(KeyError):
        fail(KeyError("bug"))
    with pytest.raises(SystemExit):
        fail(DataError("a\nb"))
    with pytest.raises(SystemExit) as exit_:
        fail(KeyboardInterrupt())
    assert exit_.value.code == 130
    with pytest.raises(SystemExit):
        fail(OSError(28, "No space left on device"))
    assert capsys.readouterr().err == "error: a b\nerror: interrupted\nerror: No space left on device\n"
    assert dict(os.environ) == before
    assert seen == [before] * 4  # a child process would inherit what is set, and show a traceback
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(DataError):
        fail(DataError("shown in full"))


def test_a_user_s_error_is_one_line_in_child_processes_too(tmp_path):
    program = (
        "import subprocess, sys\n"
        "from sam3_hyperet.cli.command import exit_cleanly\n"
        "from sam3_hyperet.errors import DataError\n"
        "@exit_cleanly\n"
        "def main():\n"
        "    if len(sys.argv) == 1:\n"
        "        subprocess.run([sys.executable, sys.argv[0], 'child'])\n"
        "    raise DataError('broken')\n"
        "main()\n"
    )
    (tmp_path / "tool.py").write_text(program)
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    done = subprocess.run(
        [sys.executable, "tool.py"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "error: broken\n" * 2)


@pytest.mark.parametrize("data", DATA_SETS)
def test_every_option_can_be_set_for_every_data_set(data):
    chosen = composed(
        f"data={data}", "data.root=x", "data.prompt_weights={object: 1.0}", "data.vocabulary=[car]", "data.size=64"
    )["data"]
    assert chosen["size"] == 64
    assert chosen["vocabulary"] == ["car"]
    assert {"object": 1.0} in chosen.values()
    assert chosen.keys() == defaults(SECTIONS["data"]).keys()


@pytest.mark.parametrize("structure", ["diagonal", "block_diagonal", "banded", "dense"])
def test_options_of_the_adapter_can_be_set_with_any_structure(structure):
    hyperet = composed(f"structure={structure}", "scheme=A+P", "hyperet.block_size=8", "hyperet.sites=null")["hyperet"]
    assert (hyperet["structure"], hyperet["scheme"], hyperet["block_size"]) == (structure, "A+P", 8)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_option_is_explained_and_can_be_set(section):
    assert not defaults(SECTIONS[section]).keys() - meanings(SECTIONS[section]).keys()
    assert composed()[section].keys() == defaults(SECTIONS[section]).keys()


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("data.splits={train: train}", "data.splits", {"train": "train"}),
        ("data.splits={train:a,val:b}", "data.splits", {"train": "a", "val": "b"}),
        ("data.splits.val=3", "data.splits", {"train": 1000, "tune": 64, "val": 3}),
        ("data.vocabulary=[été]", "data.vocabulary", ["été"]),
        ("data.vocabulary=[汽车, 房子]", "data.vocabulary", ["汽车", "房子"]),
        ("data.vocabulary=[person's hand, dog's]", "data.vocabulary", ["person's hand", "dog's"]),
        ("data.root=a b, c(d)=e's", "data.root", "a b, c(d)=e's"),
        ("data.root=2024", "data.root", "2024"),
        ("data.root='x'", "data.root", "x"),
        ("data.root=${paths.coco}/x", "data.root", "data/coco/x"),
        ("stage.layers=transformer", "stage.layers", ["transformer"]),
        ("stage.layers=[transformer\\.decoder]", "stage.layers", ["transformer\\.decoder"]),
        ("launcher.setup=module load cuda", "launcher.setup", ["module load cuda"]),
        ('launcher.additional={gres: "gpu:1"}', "launcher.additional", {"gres": "gpu:1"}),
        ('launcher.additional={gres: gpu:1, wckey: ""}', "launcher.additional", {"gres": "gpu:1", "wckey": ""}),
        ("launcher.additional.wckey=", "launcher.additional", {"wckey": ""}),
        ("hyperet={curvature: 0.1}", "hyperet.curvature", 0.1),
        ("optim.betas=[0.5,0.9]", "optim.betas", [0.5, 0.9]),
        ("run_dir=~/x", "run_dir", os.path.expanduser("~/x")),
        ("model.checkpoint=~/sam3.pt", "model.checkpoint", os.path.expanduser("~/sam3.pt")),
        ("paths.scenes=~/scenes", "data.root", os.path.expanduser("~/scenes")),
        ("name=007", "name", "007"),
    ],
)
def test_values_mean_what_they_look_like(argument, key, value):
    found = composed("launcher=slurm", "stage=2", argument)
    for part in key.split("."):
        found = found[part]
    assert found == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lrr=1"], r"optim.lrr is not an option; expected one of lr, .*; did you mean lr\?"),
        (["optm.lr=1"], r"train: key 'optm.lr' is unknown .did you mean optim."),
        (["trian.max_steps=1"], r"key 'trian.max_steps' is unknown \(did you mean train\?\)"),
        (["paths.coc=1"], r"key 'paths.coc' is unknown \(did you mean paths.coco\?\)"),
        (["data=coc"], r"data='coc' is unknown; .* or a file: data=own.yaml; did you mean coco\?"),
        (["data=nowhere/own.yaml"], r"data=nowhere/own.yaml: nowhere/own.yaml does not exist"),
        (["data.groups=[car]"], r"^data.groups=\['car'\]; expected a mapping, \{name: value\} or null$"),
        (["data.flip=often"], r"^data.flip='often'; expected a number or null$"),
        (["data.flip.x=1"], r"data.flip.x: data.flip is one value; expected data.flip=…"),
        (["optim.betas=0.9"], r"^optim.betas=0.9; expected a list of 2 numbers$"),
        (["optim.betas=[0.9"], r"optim.betas=\[0.9 is not a list \[a, b\] nor a mapping"),
        (["optim=3"], r"optim='3' is unknown; expected one of adamw"),
        (["train=3"], r"train=3; expected options by name"),
        (["run_dir="], r"run_dir=''; expected a folder to write to"),
        (["run_dir=null"], r"run_dir=None; expected a folder to write to"),
        (["launcher.setup=x"], r"launcher.setup=x is for jobs; expected launcher=slurm with it"),
        (["radius=linear"], r"radius.target is missing; schedule linear needs the curvature to end at"),
        (["seed.x=1"], r"train: seed.x is not an option"),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_command("train", arguments)


def test_a_data_set_of_one_s_own_is_named_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "parts.yaml").write_text(
        "format: coco\nroot: ${paths.coco}/parts\nsplits: {train: a, val: b}\nnum_positives: 5\n"
    )
    (tmp_path / "like.yaml").write_text("defaults: [coco, _self_]\nname: like\nvocabulary: [car]\n")
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - override /stage: '2'\n  - _self_\nseed: 7\ndata: {num_positives: 1}\n"
    )
    data = composed(f"data={tmp_path}/parts.yaml", "data.flip=0", "paths.coco=here")["data"]
    assert (data["name"], data["root"], data["num_positives"], data["flip"]) == ("parts", "here/parts", 5, 0)
    assert data["splits"] == {"train": "a", "val": "b"}
    monkeypatch.chdir(tmp_path)
    data = composed("data=like.yaml")["data"]
    assert (data["name"], data["format"], data["num_positives"], data["vocabulary"]) == ("like", "coco", 3, ["car"])
    values = composed("data=coco", "experiment=mine.yaml")
    assert (values["seed"], values["stage"]["number"], values["data"]["num_positives"]) == (7, 2, 1)
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(ConfigError, match=r"bad.yaml: not readable as YAML"):
        composed("data=bad.yaml")


def test_a_file_of_one_s_own_is_composed_once_until_it_changes(tmp_path, monkeypatch):
    file, composed_files = tmp_path / "own.yaml", []
    monkeypatch.setattr(
        hydra, "compose", lambda *given, compose=hydra.compose: composed_files.append(1) or compose(*given)
    )
    for root, times in (("first", 1), ("first", 1), ("second", 2)):
        file.write_text(f"format: coco\nroot: {root}\nsplits: {{train: a, val: b}}\n")
        assert composed(f"data={file}")["data"]["root"] == root
        assert len(composed_files) == times


def test_a_renamed_key_still_works_with_one_line_of_warning(monkeypatch, caplog):
    class Renamed(SECTIONS["optim"]):
        ALIASES = {"learning_rate": "lr"}  # noqa: RUF012

    monkeypatch.setitem(SECTIONS, "optim", Renamed)
    assert composed("optim.learning_rate=0.5")["optim"]["lr"] == 0.5
    assert composed("optim.learning_rate=0.25")["optim"]["lr"] == 0.25
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["optim.learning_rate is now called optim.lr; the old name will go"]


def test_former_names_of_the_prompts_options_still_work():
    old = {"mix": "{object: 1.0}", "negative_mix": "{group: 1.0}", "positives": "9", "negatives": "8", "hard": "0.25"}
    data = composed(*(f"data.{name}={value}" for name, value in old.items()))["data"]
    assert (data["prompt_weights"], data["negative_prompt_weights"]) == ({"object": 1.0}, {"group": 1.0})
    assert (data["num_positives"], data["num_negatives"], data["hard_negative_ratio"]) == (9, 8, 0.25)


def test_the_sections_of_a_run_are_the_base_of_what_is_set(tmp_path):
    (tmp_path / "run").mkdir()
    values = composed("data=coco", "model.resolution=64", "data.num_positives=9")
    OmegaConf.save(OmegaConf.create(values), tmp_path / "run" / "config.yaml")
    run = f"run={tmp_path / 'run'}"
    found = composed(run, "data.limit=5", tool="evaluate")
    assert found["of_run"] == ["model", "data"]
    assert found["model"] == values["model"]
    assert found["data"] == {**values["data"], "limit": 5}
    found = composed(run, "model=tiny", "data=scenes", tool="evaluate")
    assert (found["of_run"], found["model"]["resolution"], found["data"]["num_positives"]) == ([], None, 2)
    assert composed(tool="evaluate")["data"]["name"] == "scenes"
    assert composed(run, "model=of_run", tool="evaluate")["of_run"] == ["model", "data"]
    with pytest.raises(ConfigError, match=r"model='of_run' is unknown; expected one of large, tiny"):
        composed("model=of_run")
    assert composed(run, "images=x", "prompts=y", tool="predict")["model"] == values["model"]


@pytest.mark.parametrize("flag", [["--cfg"], ["--cfg", "job"]])
def test_the_composed_configuration_is_printed(capsys, flag):
    with pytest.raises(SystemExit) as exit_:
        parse_command("train", ["optim.lr=0.5", *flag])
    assert exit_.value.code == 0
    assert OmegaConf.create(capsys.readouterr().out).optim.lr == 0.5


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("/repository/tools/train.py", "python /repository/tools/predict.py 'run=a b'"),
        ("datasets/prepare_coco.py", "python tools/predict.py 'run=a b'"),
        ("/venv/bin/sam3-hyperet", "sam3-hyperet predict 'run=a b'"),
        ("/site-packages/sam3_hyperet/__main__.py", "python -m sam3_hyperet predict 'run=a b'"),
        ("", "sam3-hyperet predict 'run=a b'"),
    ],
)
def test_printed_commands_can_be_pasted(monkeypatch, script, expected):
    monkeypatch.setattr(command.sys, "argv", [script])
    assert command_line("predict", "run=a b") == expected


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of threads, for which the child does not wait
@pytest.mark.parametrize(
    ("error", "status"), [(ConfigError("no"), 1), (ZeroDivisionError("a bug"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_process_that_others_wait_for_on_gpus_ends_at_once(monkeypatch, capfd, tmp_path, error, status):
    """With what it has started. At exit, NCCL would wait for the others, which wait in a step for this one."""
    distributed = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_backend=lambda: "nccl", get_world_size=lambda: 8
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(distributed=distributed))

    def fail(*_):
        raise RuntimeError("DataLoader worker was killed")

    @exit_cleanly
    def run():
        signal.signal(signal.SIGCHLD, fail)  # as PyTorch does
        (tmp_path / "child").write_text(str(subprocess.Popen(["sleep", "60"]).pid))
        raise error

    if not (process := os.fork()):
        try:
            run()
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == status
    assert (str(error) or "interrupted") in capfd.readouterr().err
    with contextlib.suppress(FileNotFoundError):  # nobody may have seen to it yet
        assert Path("/proc", (tmp_path / "child").read_text(), "stat").read_text().split()[2] in "ZX"
    distributed.get_backend = lambda: "gloo"
    with pytest.raises((SystemExit, type(error))):
        exit_cleanly(lambda: (_ for _ in ()).throw(error))()
