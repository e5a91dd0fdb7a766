"""`data=auto` in a tool: its options made explicit before anything else is done with them."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.sections import MORE_DATA
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.layouts.table import explicit
from sam3_hyperet.options import read_options


def recognised(config: DictConfig, say: Callable[[str], None]) -> DictConfig:
    """The configuration with each data set that is recognised at its root spelled out and said; others as is.

    Raises ConfigError or DataError where no layout is recognised.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, section in _data_sections(config):
        options, lines = explicit(read_options(DataOptions, plain(section), key), key)
        for line in lines:
            say(line if key == "data" else f"{key}: {line}")
        found |= {key: asdict(options)} if lines else {}
    if not found:
        return config
    made = OmegaConf.create(plain(config))
    for key, values in found.items():
        OmegaConf.update(made, key, values, merge=False)
    return made


def recognised_here(config: DictConfig, say: Callable[[str], None]) -> DictConfig:
    """The same for a job: a folder that is not on this machine is left for the job to recognise."""
    for _, section in _data_sections(config):
        root = Path(str(section.root))
        if section.format == "auto" and not root.expanduser().is_dir():
            say(f"data=auto: {root} is no folder on this machine, so the job recognises it there")
            return config
    return recognised(config, say)


def _data_sections(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    yield "data", config.data
    yield from ((f"{MORE_DATA}.{name}", section) for name, section in (config.get(MORE_DATA) or {}).items())
