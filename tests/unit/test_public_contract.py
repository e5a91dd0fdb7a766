"""The names, signatures and defaults that users build on."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import sam3_hyperet as hy
from sam3_hyperet import errors

SIGNATURES = {
    "build_model": {"name": "tiny", "checkpoint": None, "resolution": None, "seed": 0, "compile": False},
    "resolution": {"model": inspect.Parameter.empty},
    "inject": {"model": inspect.Parameter.empty, "config": inspect.Parameter.empty},
    "inject_qv": {"vit": inspect.Parameter.empty, "config": None, "pattern": None},
    "wrap": {
        "module": inspect.Parameter.empty,
        "pattern": inspect.Parameter.empty,
        "config": None,
        "channels": None,
        "channel_dim": None,
    },
    "remove_adapter": {"model": inspect.Parameter.empty},
    "adapted_copy": {"base": inspect.Parameter.empty, "adapter": inspect.Parameter.empty},
    "to_device": {"model": inspect.Parameter.empty, "device": inspect.Parameter.empty},
    "adapters_disabled": {"model": inspect.Parameter.empty},
    "set_dial": {"model": inspect.Parameter.empty, "alpha": inspect.Parameter.empty},
    "parameter_report": {"model": inspect.Parameter.empty},
    "save_adapter": {"model": inspect.Parameter.empty, "path": inspect.Parameter.empty},
    "load_adapter": {"model": inspect.Parameter.empty, "path": inspect.Parameter.empty},
    "push_to_hub": {
        "source": inspect.Parameter.empty,
        "repo": inspect.Parameter.empty,
        "private": False,
        "revision": None,
        "base_model": None,
        "license": None,
        "note": "",
        "evaluations": (),
    },
    "save_official": {"model": inspect.Parameter.empty, "path": inspect.Parameter.empty, "carry_over": None},
    "Predictor": {
        "model": inspect.Parameter.empty,
        "vocabulary": inspect.Parameter.empty,
        "resolution": inspect.Parameter.empty,
        "prompts_at_once": 0,
        "min_score": 0.0,
        "precision": "32-true",
        "spare_below": 0.0,
        "texts_at_once": 1024,
    },
    "adapted_model": {
        "name": "large",
        "checkpoint": None,
        "resolution": None,
        "seed": 0,
        "hyperet": None,
        "stage": 1,
        "adapter": None,
    },
}


def test_every_public_name_is_there():
    names = set(SIGNATURES) | {"HyperET", "HyperETConfig", "merge", "set_stage", "__version__"}
    assert names <= set(hy.__all__)
    for name in hy.__all__:
        assert getattr(hy, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        hy.no_such_name


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_stable(name):
    parameters = inspect.signature(getattr(hy, name)).parameters
    assert {key: p.default for key, p in parameters.items()} == SIGNATURES[name]


def test_set_stage_takes_model_and_stage_by_position():
    assert list(inspect.signature(hy.set_stage).parameters)[:2] == ["model", "stage"]


def test_defaults_of_the_configuration():
    expected = {
        "scheme": "A",
        "sites": None,
        "structure": "dense",
        "geometry": "lorentz",
        "curvature": 0.01,
        "learn_curvature": False,
        "residual": None,
        "learn_residual": False,
        "gate": "none",
        "block_size": 4,
        "bandwidth": 1,
        "levels": None,
        "layers": None,
        "share": None,
        "adapter": "hyperet",
    }
    assert expected.items() <= dataclasses.asdict(hy.HyperETConfig()).items()


def test_hyperet_takes_its_options_by_name():
    import torch

    module = hy.HyperET(
        6,
        structure="diagonal",
        geometry="gyro",
        curvature=0.1,
        learn_curvature=True,
        residual=0.5,
        channel_dim=1,
    )
    x = torch.randn(2, 6, 3)
    assert torch.equal(module(x), x)


def test_every_error_is_a_user_error():
    for name in ("ConfigError", "DataError", "CheckpointError", "HostError"):
        assert issubclass(getattr(errors, name), errors.UserError)
