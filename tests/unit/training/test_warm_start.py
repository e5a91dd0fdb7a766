"""Warm start: which adapter file a run begins with, and which one it refuses."""

from __future__ import annotations

import pytest

import sam3_hyperet as hy
from sam3_hyperet.digest import sha256
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.training.warm_start import initial_adapter


def test_a_file_or_the_folder_of_a_run_with_the_same_options(model, tmp_path):
    config = HyperETConfig(scheme="B", structure="diagonal")
    file = tmp_path / "adapter.safetensors"
    hy.save_adapter(hy.inject(model, config), file)
    assert initial_adapter(str(file), config) == initial_adapter(str(tmp_path), config) == (file, sha256(file))
    other = HyperETConfig(scheme="B", structure="banded", geometry="mobius")
    with pytest.raises(ConfigError) as raised:
        initial_adapter(str(file), other)
    assert f"hyperet.structure is diagonal in {file} and banded in this run" in str(raised.value)
    assert "hyperet.geometry is lorentz" in str(raised.value)
    with pytest.raises(ConfigError, match="but the run has no adapters"):
        initial_adapter(str(file), HyperETConfig(scheme="none"))
    with pytest.raises(CheckpointError, match=r"^init_adapter: .*nowhere: no such file; expected an adapter"):
        initial_adapter(str(tmp_path / "nowhere"), config)


def test_the_packaged_adapter_has_the_options_of_a_default_run():
    config = HyperETConfig(scheme="B+prompt", gate="auto")
    assert initial_adapter("package:tiny_levels", config)[0].name == "tiny_levels_adapter.safetensors"
