"""The likeliest mistakes at `tools/evaluate.py` end in one clear line and leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from coco_cases import Case, write_case
from omegaconf import OmegaConf
from one_line_errors import error_of

import sam3_hyperet as hy
from sam3_hyperet.cli.evaluate import find_trained, main
from sam3_hyperet.errors import ConfigError

RANDOM = ["model=tiny", "model.checkpoint=random"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The validation pictures of a small set of scenes, drawn once, as overrides."""
    root = tmp_path_factory.mktemp("scenes")
    return ["data=scenes", f"paths.scenes={root}", "data.splits.val=2"]


@pytest.fixture
def fails(scenes, tmp_path, capsys):
    """A function that runs the tool to its error, which it returns; checks that nothing was written."""

    def run(*arguments: str) -> str:
        folder = tmp_path / "evaluated"
        return error_of(main, [*scenes, f"run_dir={folder}", *arguments], capsys, folder)[0]

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum=x"], "key 'rum' is unknown (did you mean run?)"),
        (["protocol.tops=3"], "protocol.tops is not an option; expected one of max_dets, "),
        (["protocol=quick"], "protocol='quick' is unknown; expected one of cascade, exact, fast"),
        (
            [*RANDOM, "protocol.compare_exact=4"],
            "protocol.min_score=0 is exact already; expected protocol.compare_exact=0",
        ),
        ([*RANDOM, "resume=yes"], "resume='yes'; expected auto or never"),
        ([*RANDOM, "keep_records=2"], "keep_records=2; expected true or false"),
        ([*RANDOM, "devices=0"], "devices=0; expected an integer from 1"),
        ([*RANDOM, "protocol.max_dets=0"], "protocol.max_dets=0; expected an integer from 1"),
        ([*RANDOM, "split=test"], "has no split 'test'; it has train, tune, val"),
        ([*RANDOM, "device=tpu"], "device='tpu'; expected auto, cpu, cuda, gpu"),
        ([*RANDOM, "threads=-1"], "threads=-1; expected an integer from 0"),
        ([*RANDOM, "data.format=voc"], "data.format='voc' is unknown"),
        ([*RANDOM, "adapter=/nowhere/adapter.safetensors"], "/nowhere/adapter.safetensors: no such file"),
        (["run=/nowhere"], "run=/nowhere: /nowhere/config.yaml does not exist; expected the folder of a training run"),
    ],
)
def test_options(fails, arguments, message):
    assert message in fails(*arguments)


def test_a_folder_that_is_no_run(fails, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "config.yaml does not exist" in fails(f"run={folder}")
    for text, message in (
        ("a: [", "config.yaml: not readable as YAML"),
        ("- 1\n", "config.yaml: not the configuration of a training run"),
        ("seed: 1\n", "expected the sections model and data"),
        ("model: {name: tiny, depth: 3}\ndata: {name: x}\n", "model.depth is not an option; expected one of name"),
    ):
        (folder / "config.yaml").write_text(text)
        assert message in fails(f"run={folder}")
    values = {"model": {"name": "tiny"}, "data": {"name": "x", "format": "scenes", "root": "x", "split": {}}}
    OmegaConf.save(OmegaConf.create(values), folder / "config.yaml")
    assert "data.split is not an option; expected one of name, format" in _without_data(tmp_path, folder)


def _without_data(tmp_path, folder):
    with pytest.raises(ConfigError) as error:
        main([f"run={folder}", f"run_dir={tmp_path / 'evaluated'}"])
    return str(error.value)


def test_files_that_are_no_adapter_or_another_model_s(fails, model, tmp_path):
    for name, content in (("text.safetensors", b"no tensors"), ("folder", None)):
        path = tmp_path / name
        path.mkdir() if content is None else path.write_bytes(content)
        assert str(path) in fails(*RANDOM, f"adapter={path}")
    hy.save_adapter(hy.inject(model, hy.HyperETConfig()), tmp_path / "adapter.safetensors")
    error = fails(*RANDOM, "model.seed=5", f"adapter={tmp_path / 'adapter.safetensors'}")
    assert "made for the base" in error
    assert "load it onto the base weights that it was trained on" in error


def test_the_base_alone_needs_neither_run_nor_adapter(scenes, tmp_path, capsys):
    folder = main([*RANDOM, *scenes, "protocol.limit=1", "protocol.examples=0", f"run_dir={tmp_path / 'a' / 'b'}"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["params/added"] == 0
    assert metrics["scenes/images"] == 1
    assert "scenes/segm/AP" in capsys.readouterr().out


def test_models_are_named_after_their_files_and_runs(tmp_path):
    runs = [tmp_path / name / "run" for name in "ab"]
    for run in runs:
        run.mkdir(parents=True)
        (run / "adapter.safetensors").touch()
    (runs[1] / "weights.safetensors").touch()

    def names(adapters, runs=(), data="scenes"):
        found = find_trained([Path(one) for one in adapters], runs, data=data, use_weights=True)
        return [(name, files.weights) for name, files in found.items()]

    files = ["x/adapter.safetensors", "y/adapter_last.safetensors", "y/z.safetensors", "w/z.safetensors"]
    assert [name for name, _ in names(files)] == ["x", "y", "z", "z-2"]
    assert [name for name, _ in names(["base/adapter.safetensors", "scenes.safetensors"])] == ["base-2", "scenes-2"]
    assert names([], runs) == [("run", None), ("run-2", runs[1] / "weights.safetensors")]
    assert names(["..safetensors", "exact.safetensors"]) == [("adapter", None), ("exact-2", None)]
    assert names(["q.safetensors"], runs[1:]) == [("q", runs[1] / "weights.safetensors")]
    with pytest.raises(ConfigError, match="adapter= and 2 runs; expected adapter files, with one run at most, or runs"):
        names(["q.safetensors"], runs)


def test_runs_of_different_data_are_not_compared(tmp_path):
    values = {"model": {"name": "tiny", "checkpoint": None}, "data": {"name": "x", "root": "here", "mix": None}}
    other = {"model": values["model"], "data": {**values["data"], "root": "there", "mix": {"part": 1}}}
    for name, content in (("a", values), ("b", other)):
        (tmp_path / name).mkdir()
        OmegaConf.save(OmegaConf.create(content), tmp_path / name / "config.yaml")
    error = _without_data(tmp_path, f"[{tmp_path / 'a'},{tmp_path / 'b'}]")
    assert "b: data.root is there, but here in" in error
    assert "expected runs of one data, or data=…" in error


def test_a_file_in_a_parent_folder_is_named_after_that_folder(tmp_path, monkeypatch):
    """Its folder of records lies below that of all records, so what else is in run_dir is safe."""
    (tmp_path / "mine" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine" / "below")
    for file in ("../adapter.safetensors", str(Path("..") / "below" / ".." / "adapter.safetensors")):
        assert list(find_trained([Path(file)], [], data="scenes", use_weights=False)) == ["mine"]
    assert list(find_trained([Path("adapter.safetensors")], [], data="scenes", use_weights=False)) == ["below"]


def test_a_data_set_is_not_named_like_other_metrics(fails):
    for name in ("base", "difference", "params", "a/b"):
        assert f"data.name={name!r}; expected a name" in fails(*RANDOM, f"data.name={name}")


def test_only_what_a_run_wrote_is_removed(scenes, tmp_path):
    """Records of one's own stay, also where they lie where the records of an evaluation would."""
    folder = tmp_path / "out"
    mine = [folder / "records" / "notes.csv", folder / "records" / "mine" / "a.npz", folder / "b.txt"]
    for file in mine:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    arguments = [*RANDOM, *scenes, "protocol.limit=1", "protocol.examples=0", f"run_dir={folder}"]
    main(arguments)
    assert [file.read_text() for file in mine] == ["mine"] * 3
    assert sorted(path.name for path in (folder / "records").iterdir()) == ["mine", "notes.csv"]
    (folder / "metrics.json").unlink()
    main(arguments)
    for name in ("records/base", "report.html"):
        other = tmp_path / name.replace("/", "-")
        (other / name).mkdir(parents=True)
        (other / name / "000000.npz").write_text("mine")
        with pytest.raises(ConfigError, match=f"{name} is there and was not written by an earlier run"):
            main([*arguments[:-1], f"run_dir={other}"])
        assert (other / name / "000000.npz").read_text() == "mine"


def test_a_folder_is_one_evaluation_s_at_a_time(tmp_path):
    """The lock of another process is held by a child that this one starts."""
    folder = tmp_path / "evaluated"
    program = (
        "import sys; from pathlib import Path; from sam3_hyperet.files import sole_use\n"
        f"with sole_use(Path({str(folder)!r})): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"run_dir={folder} is in use by process {other.pid}"):
            main([*RANDOM, f"run_dir={folder}"])
        other.communicate()
    assert not folder.exists()


def test_a_set_of_one_split_is_scored_in_part_and_how_to_score_all_is_said(tmp_path, monkeypatch, capsys):
    root = write_case(tmp_path / "shop", Case(lambda content: None))
    monkeypatch.setattr("sam3_hyperet.cli.evaluate.open_models", None)
    one = "[train, annotations/instances_train.json]"
    given = [*RANDOM, "data=coco", f"data.root={root}", f"run_dir={tmp_path / 'out'}"]
    hint = f"to score all images of a set that nothing was trained on: 'data.splits={{val: {one}}}'\n"
    for splits, is_said in ((f"{{train: {one}}}", True), (f"{{val: {one}}}", False)):
        with pytest.raises(TypeError):  # all is opened but the models
            main([*given, f"data.splits={splits}"])
        assert (hint in capsys.readouterr().out) == is_said
