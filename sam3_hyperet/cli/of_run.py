"""Sections of a tool's configuration that come from the training runs that `run=` names."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.reading import YAML_ERRORS, read_yaml_text
from sam3_hyperet.training.run_files import CONFIG_FILE

OF_RUN = "of_run"
"""The choice of a group that stands for the runs' own section, and the key that lists the groups where it was made."""

_WITHOUT_RUN = {"model": "tiny", "data": "scenes", "demo model": "tiny_levels"}
_DECIDING = {  # what runs must have alike to be compared
    "model": ("name", "checkpoint", "resolution", "seed"),
    "data": (
        *("name", "format", "root", "splits", "limit", "seed", "size", "names", "vocabulary", "groups"),
        *("parts", "renamed", "wholes", "whole_names", "unseen"),
        *(
            "supercategories",
            "ignore",
            "offset",
            "void",
            "colors",
            "image_ending",
            "label_ending",
            "validation_fraction",
        ),
    ),
}


def listed(option: object) -> list[Path]:
    """The paths of an option that takes null, one or a list."""
    paths: Any = [] if option is None else [option] if isinstance(option, str | int | Path) else option
    return [Path(str(one)).expanduser() for one in paths]


def sections_of_runs(run: object, names: Sequence[str], configs: Path, command: str = "") -> dict[str, DictConfig]:
    """Sections by name as the runs' configurations have them, or of a tiny model and scenes without a run.

    Raises ConfigError for a folder without the configuration of a run, and for runs that differ in these sections.
    """
    runs = {folder: config_of_run(folder) for folder in listed(run)}
    if not runs:
        chosen = {name: _WITHOUT_RUN.get(f"{command} {name}") or _WITHOUT_RUN[name] for name in names}
        return {name: read_yaml(configs / name / f"{choice}.yaml", name) for name, choice in chosen.items()}
    (first, config), *others = runs.items()
    for name in names:
        for folder, other in others:
            for key in _DECIDING[name]:
                found, expected = other[name].get(key), config[name].get(key)
                if found != expected and (key in other[name]) == (key in config[name]):  # not there in an old run
                    fault = f"{name}.{key} is {found}, but {expected} in {first}"
                    raise ConfigError(f"run={folder}: {fault}; expected runs of one {name}, or {name}=…")
    return {name: config[name] for name in names}


def read_yaml(file: Path, given: str, expected: str = "keys with values") -> DictConfig:
    """The mapping in a YAML file; `given` is how the user named it, and `expected` what it should be."""
    if not os.path.lexists(file):
        raise ConfigError(f"{given}: {file} does not exist")
    text = read_yaml_text(file)
    try:
        content = OmegaConf.load(io.StringIO(text))
    except (*YAML_ERRORS, OmegaConfBaseException, OSError, AssertionError) as error:
        raise ConfigError(f"{file}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{file}: not {expected}")
    return content


def config_of_run(folder: Path) -> DictConfig:
    """The configuration of the training run in a folder. Raises ConfigError where it has none."""
    file = folder / CONFIG_FILE
    if not os.path.lexists(file):
        raise ConfigError(f"run={folder}: {file} does not exist; expected the folder of a training run")
    expected = "the configuration of a training run; expected the sections model and data"
    found = read_yaml(file, f"run={folder}", expected)
    if "${" in OmegaConf.to_yaml(found):  # a run writes them resolved, and those of others may be without end
        raise ConfigError(f"{file}: it has interpolations (${{…}}), expected the values that a run writes")
    if not all(isinstance(found.get(section), DictConfig) for section in ("model", "data")):
        raise ConfigError(f"{file}: not {expected}")
    return found
