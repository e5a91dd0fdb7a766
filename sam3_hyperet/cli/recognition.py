"""`data=auto` in a tool: its options made explicit before anything else is done with them."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.layouts.table import explicit
from sam3_hyperet.options import read_options


def recognised(config: DictConfig, say: Callable[[str], None]) -> DictConfig:
    """The configuration with the data set at `data.root` spelled out, which was recognised and is said; others as is.

    Raises ConfigError or DataError where no layout is recognised.
    """
    options, lines = explicit(read_options(DataOptions, OmegaConf.to_container(config.data), "data"))
    for line in lines:
        say(line)
    values = OmegaConf.to_container(config, resolve=True)
    return OmegaConf.create({**values, "data": asdict(options)}) if lines else config  # type: ignore[dict-item]


def recognised_here(config: DictConfig, say: Callable[[str], None]) -> DictConfig:
    """The same for a job: a folder that is not on this machine is left for the job to recognise."""
    root = Path(str(config.data.root))
    if config.data.format != "auto" or root.expanduser().is_dir():
        return recognised(config, say)
    say(f"data=auto: {root} is no folder on this machine, so the job recognises it there")
    return config
