"""One export of a micro model with an adapter, by the command line, for all tests."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import micro_model
import pytest
from moved_adapters import moved

import sam3_hyperet as hy
from sam3_hyperet.cli.export import main
from sam3_hyperet.modeling import build

SIDE = 64
MICRO = replace(micro_model.MICRO, resolution=SIDE, encoder_layers=1, decoder_layers=1)


@contextmanager
def _tiny_is_micro():
    """Never for longer than a test or the making of a fixture: other tests of the process have the tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.ARCHITECTURES, "tiny", MICRO)
        yield


@pytest.fixture
def tiny_is_micro():
    """Within it, model=tiny is the micro architecture."""
    with _tiny_is_micro():
        yield


@pytest.fixture
def micro_with(tiny_is_micro):
    """A function from an adapter's options to the micro model with it, its parameters not at their start."""
    return _micro_with


def _micro_with(**options):
    return moved(hy.inject(hy.build_model("tiny", checkpoint="random"), options))


@pytest.fixture(scope="session")
def adapter(tmp_path_factory):
    """The file of an adapter that does not fold: hyperbolic, behind the text and the fusion encoder, with gates."""
    path = tmp_path_factory.mktemp("adapter") / "shop.safetensors"
    with _tiny_is_micro():
        hy.save_adapter(_micro_with(sites=("encoder_layer", "prompt"), geometry="gyro", gate="prompt"), path)
    return path


@pytest.fixture(scope="session")
def adapted(adapter):
    """The micro model with that adapter, at dial 0.5."""
    with _tiny_is_micro():
        model = hy.load_adapter(hy.build_model("tiny", checkpoint="random"), adapter)
    hy.set_dial(model, 0.5)
    return model


@pytest.fixture(scope="session")
def exported(adapter, tmp_path_factory):
    """The folder of the model's export at dial 0.5, for up to two boxes of a prompt."""
    out = tmp_path_factory.mktemp("export") / "new" / "onnx"
    given = ["model.checkpoint=random", f"adapter={adapter}", "dial=.5", f"out={out}", "boxes=2"]
    with _tiny_is_micro():
        assert main([*given, "prompts=[car,small red house,sky]"]) == out
    return out
