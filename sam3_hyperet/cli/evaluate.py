"""`tools/evaluate.py`: score the base and the adapted model side by side on any data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from yaml import YAMLError

from sam3_hyperet.cli.command import CONFIGS, parse_command
from sam3_hyperet.cli.compare import compare, print_headline
from sam3_hyperet.cli.model import open_model, set_threads
from sam3_hyperet.cli.run_folder import ADAPTER, WEIGHTS
from sam3_hyperet.data.sources import DataOptions
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.runner import Protocol
from sam3_hyperet.modeling.adapter_file import load_adapter
from sam3_hyperet.options import read_options

OF_RUN = "of_run"


def main(argv: list[str] | None = None) -> Path:
    """Run the tool; returns the folder with metrics.json and report.html."""
    _, config = parse_command("evaluate", argv)
    console = Console(highlight=False)
    protocol = read_options(Protocol, OmegaConf.to_container(config.protocol), "protocol")
    run = _run_config(config)
    model_values = _section(config, run, "model", "tiny")
    data_values = _section(config, run, "data", "scenes")
    data = read_options(DataOptions, data_values, "data")
    adapter = _adapter(config)
    set_threads(config.threads)
    device = choose_device(config.device)
    weights = _weights(config)
    own_values = {**model_values, "checkpoint": str(weights)} if weights else model_values
    model = open_model(own_values).to(device)
    if adapter:
        load_adapter(model, adapter)
    # A run that trained the base as well is compared with the base that it began with, as tools/train.py does.
    base = open_model(model_values).to(device) if weights and model_values.get("checkpoint") != "random" else None
    run_dir = Path(config.run_dir)
    metrics = compare(
        model,
        data,
        protocol,
        run_dir,
        config_text=OmegaConf.to_yaml({**config, "model": own_values, "data": data_values}),
        extra={},
        console=console,
        split_name=config.split,
        adapter=adapter,
        base=base,
    )
    print_headline(console, metrics)
    console.print(f"wrote {run_dir / 'metrics.json'}, {run_dir / 'report.html'}")
    return run_dir


def choose_device(name: str) -> torch.device:
    """The device of an option device=auto|cpu|cuda…: auto is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name}; expected auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name}, but PyTorch finds no CUDA device; expected auto or cpu")
    return device


def _run_config(config: DictConfig) -> DictConfig | None:
    if config.run is None:
        return None
    file = Path(config.run) / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"run={config.run}: {file} does not exist; expected the folder of a training run")
    try:
        found = OmegaConf.load(file)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not readable as YAML ({error})") from error
    if not isinstance(found, DictConfig) or not {"model", "data"} <= found.keys():
        raise ConfigError(f"{file}: not the configuration of a training run; expected the sections model and data")
    return found


def _adapter(config: DictConfig) -> Path | None:
    if config.adapter is not None:
        return Path(config.adapter)
    if config.run is None:
        return None
    found = Path(config.run) / ADAPTER["best"]
    return found if found.is_file() else None


def _section(config: DictConfig, run: DictConfig | None, name: str, default: str) -> dict[str, Any]:
    """A section as the command line names it, as the run has it, or the default, in this order."""
    section = config[name]
    if section.name == OF_RUN:
        if run is not None:
            section = run[name]
        else:
            section = OmegaConf.merge(
                {"paths": config.paths}, {name: OmegaConf.load(CONFIGS / name / f"{default}.yaml")}
            )
            section = section[name]
    values: dict[str, Any] = OmegaConf.to_container(section, resolve=True)  # type: ignore[assignment]
    return values


def _weights(config: DictConfig) -> Path | None:
    """The base weights that a run trained, if it did, and if the command line names no other model."""
    if config.run is None or config.model.name != OF_RUN:
        return None
    found = Path(config.run) / WEIGHTS["best"]
    return found if found.is_file() else None
