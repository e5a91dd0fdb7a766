"""`demo`: what it opens, and mistakes, which are one sentence before a model is built."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from sam3_hyperet.cli import demo
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.demo.samples import MOST
from sam3_hyperet.errors import CheckpointError, ConfigError, DataError
from sam3_hyperet.evaluation.models import EvalModel
from sam3_hyperet.modeling.adapter_file import save_adapter
from sam3_hyperet.modeling.config import packaged_adapter
from sam3_hyperet.modeling.copies import adapted_copy


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """A function that serves by arguments up to the error, or to the models that would be opened."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (20, 30)).save(folder / "one.png")

    class Opened(Exception):
        pass

    def opens(values: object, trained: object, device: object):
        raise Opened(values, trained)

    monkeypatch.setattr(demo, "open_models", opens)

    def run(*arguments: str):
        _, config = parse_command("demo", ["port=0", f"images={folder}", *arguments])
        with pytest.raises((Opened, ConfigError, DataError, CheckpointError)) as error, _served(config):
            pass
        if isinstance(error.value, Opened):
            return error.value.args
        raise error.value

    return run


@contextmanager
def _served(config):
    with demo.serving(config, Console(quiet=True)):
        yield


def test_the_packaged_adapter_is_the_default(serve):
    values, trained = serve()
    assert values["name"] == "tiny_levels"
    assert [files.adapter for files in trained.values()] == [packaged_adapter("tiny_levels")]
    assert packaged_adapter("tiny_levels").is_file()


def test_adapters_are_files_or_run_folders(serve, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "adapter.safetensors").touch()
    (tmp_path / "other.safetensors").touch()
    _, trained = serve(f"adapter=[{run},{tmp_path / 'other.safetensors'}]")
    assert list(trained) == ["run", "other"]
    assert trained["run"].adapter == run / "adapter.safetensors"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["model=tiny"], ConfigError, "no adapter comes with model=tiny model.checkpoint=null; expected adapter=FILE"),
        (["model.checkpoint=random"], ConfigError, "no adapter comes with model=tiny_levels model.checkpoint=random"),
        (["images=nowhere"], DataError, "nowhere: no such image or folder"),
        (["tree=nowhere.json"], DataError, "nowhere.json"),
        (["host=nowhere.invalid"], ConfigError, "host=nowhere.invalid port=0: "),
    ],
)
def test_mistakes_are_sentences(serve, arguments, kind, message):
    with pytest.raises(kind) as error:
        serve(*arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("dial=1.6", "dial=1.6; expected a number from 0, the base, over 1, the adapter, to 1.5"),
        ("port=70000", "port=70000; expected a port, from 0 to 65535"),
        ("pictures=0", "pictures=0; expected an integer from 1"),
    ],
)
def test_values_that_cannot_be(argument, message):
    with pytest.raises(ConfigError) as error:
        parse_command("demo", [argument])
    assert message in str(error.value)


def test_a_port_that_is_taken_and_no_gradio(serve, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port={port}: .* in use; expected another port="):
            serve(f"port={port}")
    monkeypatch.setattr(demo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install \"sam3_hyperet\[demo\]\""):
        serve()


def test_what_is_left_out_is_said(tmp_path):
    for k in range(MOST + 2):
        Image.new("RGB", (20, 30)).save(tmp_path / f"{k}.png")
    (tmp_path / "notes.txt").touch()
    _, config = parse_command("demo", [f"images={tmp_path}"])
    samples, lines = demo._samples(config)
    assert len(samples) == MOST
    assert lines[0].endswith("1 other files and folders are passed over: notes.txt")
    assert lines[1] == f"the first {MOST} of {MOST + 2} images are offered; the page opens any other by upload"


def test_what_is_said_of_the_models(base, tmp_path):
    adapted = adapted_copy(base, {"scheme": "B", "structure": "diagonal"})
    save_adapter(adapted, tmp_path / "a.safetensors")
    assert demo._description("a", adapted) == "a: encoder_layer, lorentz, 128 parameters (0.0028 %)"
    runs = {"own": demo.TrainedFiles(tmp_path / "a.safetensors", Path("weights.safetensors"))}
    assert demo._remarks(runs) == ["own trained base weights, too: dial 0 is not the base"]
    with pytest.raises(ConfigError, match="there is no base to compare with"):
        demo._check(EvalModel("own", adapted), [])
