"""Warm start: the adapter file that a run begins with."""

from dataclasses import asdict
from pathlib import Path

from torch import nn

from sam3_hyperet.digest import sha256
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.adapter_file import load_adapter, read_adapter_config
from sam3_hyperet.modeling.adapter_source import locate_adapter
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.dial import dial_of, set_dial
from sam3_hyperet.training.run_files import ADAPTER


def initial_adapter(given: str, config: HyperETConfig) -> tuple[Path, str]:
    """The adapter file that `init_adapter` names, as for `load_adapter`, and its SHA-256.

    Raises CheckpointError for what is no adapter file, and ConfigError for one of other options than `config`. Whether
    it is of the same base is seen when it is loaded.
    """
    path = locate_adapter(given)
    file = path / ADAPTER["best"] if path.is_dir() else path
    if not file.exists():
        expected = f"expected an adapter file, a run's folder with {ADAPTER['best']}, or hub:user/name"
        raise CheckpointError(f"init_adapter: {file}: no such file; {expected}")
    found = read_adapter_config(file)
    if config.is_empty:
        raise ConfigError(f"init_adapter={given}, but the run has no adapters; expected a scheme, or init_adapter=null")
    if odd := config.differences(found):
        there, here = asdict(found), asdict(config)
        named = ", ".join(f"hyperet.{key} is {there[key]} in {file} and {here[key]} in this run" for key in odd)
        raise ConfigError(f"init_adapter={given}: {named}; expected the same options")
    return file, sha256(file)


def load_to_train(model: nn.Module, path: str | Path) -> float:
    """Load an adapter file to train on at dial 1, as all training is; returns the dial that the file has."""
    load_adapter(model, path)
    if (dial := dial_of(model)) != 1.0:
        set_dial(model, 1.0)
    return dial
