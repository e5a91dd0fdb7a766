"""`tools/benchmark.py`: what it passes on, what it writes, and what it refuses."""

from __future__ import annotations

import inspect
import json

import pytest
from omegaconf import OmegaConf
from one_line_errors import error_of

from benchmarks import (
    attention,
    cascade,
    data,
    evaluation,
    gpu,
    intervals,
    large,
    memory,
    metrics,
    ops,
    schemes,
    startup,
    tiles,
    training,
)
from sam3_hyperet.cli.benchmark import main
from sam3_hyperet.cli.command import CONFIGS

SUBCOMMANDS = {
    "ops": ops,
    "attention": attention,
    "cascade": cascade,
    "schemes": schemes,
    "startup": startup,
    "data": data,
    "large": large,
    "memory": memory,
    "metrics": metrics,
    "training": training,
    "evaluation": evaluation,
    "gpu": gpu,
    "intervals": intervals,
    "tiles": tiles,
}


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_the_options_are_those_of_the_function(name):
    options = OmegaConf.to_container(OmegaConf.load(CONFIGS / "benchmark" / f"{name}.yaml"))
    assert (options.pop("out"), options.pop("defaults")) == (None, ["_self_", {"launcher": "local"}])
    parameters = inspect.signature(SUBCOMMANDS[name].run).parameters
    assert options == {key: parameter.default for key, parameter in parameters.items()}


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_figures_are_returned_and_written(monkeypatch, tmp_path, name):
    asked = []
    monkeypatch.setattr(SUBCOMMANDS[name], "run", lambda **options: asked.append(options) or {"figure": 1.5})
    first = {
        "cascade": "images",
        "large": "steps",
        "training": "steps",
        "evaluation": "turns",
        "memory": "prompts",
        "intervals": "trials",
        "tiles": "scenes",
    }.get(name, "repeats")
    out = tmp_path / "new" / "figures.json"
    assert main([name, f"{first}=3", f"out={out}"]) == {"figure": 1.5}
    assert json.loads(out.read_text()) == {"figure": 1.5}
    assert asked[0][first] == 3
    assert "out" not in asked[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "subcommand is missing; there are attention, "),
        (["op"], "did you mean ops?"),
        (["ops", "sizes=3"], "did you mean size?"),
        (["ops", "size=0"], "benchmark ops: size=0; expected an integer from 1"),
        (["large", "steps=two"], "benchmark large: steps=two; expected an integer from 1"),
        (["large", "resolution=true"], "resolution=True; expected an integer from 1"),
        (["gpu", "folder=null"], "benchmark gpu: folder=None; expected text"),
        (["training", "attention_dropout=1"], "attention_dropout=1; expected true or false"),
    ],
)
def test_mistakes(capsys, arguments, message):
    assert message in error_of(main, arguments, capsys)[0]
