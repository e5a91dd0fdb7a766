"""One export of the packaged base with its adapter, by the command line, for all tests; and a micro model."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import micro_model
import pytest

import sam3_hyperet as hy
from sam3_hyperet.cli.export import main
from sam3_hyperet.modeling import build
from sam3_hyperet.modeling.adapter_source import locate_adapter

ADAPTER = "package:tiny_levels"
MICRO = replace(micro_model.MICRO, resolution=64, encoder_layers=1, decoder_layers=1)


@pytest.fixture
def tiny_is_micro(monkeypatch):
    """Within it, model=tiny is the micro architecture."""
    monkeypatch.setitem(build.ARCHITECTURES, "tiny", MICRO)


@pytest.fixture(scope="session")
def adapter():
    """The packaged adapter's file. It does not fold: hyperbolic, with gates, behind the text and the fusion encoder."""
    return locate_adapter(ADAPTER)


@pytest.fixture(scope="session")
def adapted(adapter):
    """The packaged base with that adapter, at dial 0.75."""
    model = hy.load_adapter(hy.build_model("tiny_levels"), adapter)
    hy.set_dial(model, 0.75)
    return model


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The folder of the model's export at dial 0.75, for up to two boxes of a prompt, and what the tool printed."""
    out = tmp_path_factory.mktemp("export") / "new" / "onnx"
    given = ["model=tiny_levels", f"adapter={ADAPTER}", "dial=.75", f"out={out}", "boxes=2"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main([*given, "prompts=[car,small red house,sky]"]) == out
    return out, said.getvalue()
