"""`tools/evaluate.py`: score the base and any number of adapted models side by side on any data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from yaml import YAMLError

from sam3_hyperet.cli.command import CONFIGS, parse_command
from sam3_hyperet.cli.compare import compare_and_report
from sam3_hyperet.cli.processes import make_fabric
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.models import find_trained, open_models
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.modeling.opening import set_threads
from sam3_hyperet.options import one_of, read_options

OF_RUN = "of_run"
RESUME = ("auto", "never")
DECIDING = {  # what runs must have alike to be compared
    "model": ("name", "checkpoint", "resolution", "seed"),
    "data": (
        *("name", "format", "root", "splits", "limit", "seed", "size", "names", "vocabulary", "groups"),
        *("ignore", "offset", "image_ending", "label_ending"),
    ),
}


def main(argv: list[str] | None = None) -> Path:
    """Run the tool; returns the folder with metrics.json and report.html."""
    _, config = parse_command("evaluate", argv)
    protocol = read_options(Protocol, OmegaConf.to_container(config.protocol), "protocol")
    one_of("resume", config.resume, RESUME)
    if type(config.keep_records) is not bool:
        raise ConfigError(f"keep_records={config.keep_records!r}; expected true or false")
    runs = {folder: _run_config(folder) for folder in _listed(config.run)}
    model_values = _section(config, runs, "model", "tiny")
    data_values = _section(config, runs, "data", "scenes")
    data = read_options(DataOptions, data_values, "data")
    use_weights = config.model.name == OF_RUN
    trained = find_trained(_listed(config.adapter), list(runs), data=data.name, use_weights=use_weights)
    set_threads(config.threads)
    device = choose_device(config.device)
    fabric = _fabric(config.devices, device)
    console = Console(highlight=False, quiet=not fabric.is_global_zero)
    with fabric.rank_zero_first():  # it may draw the images
        split = open_split(data, str(config.split))
    models = open_models(model_values, trained, fabric.device if fabric.world_size > 1 else device)
    run_dir = Path(fabric.broadcast(config.run_dir))  # its default has the time, which is each process's own
    compare_and_report(
        models,
        data,
        split,
        protocol,
        run_dir,
        config_text=OmegaConf.to_yaml({**config, "model": model_values, "data": data_values}),
        extra={},
        console=console,
        fabric=fabric,
        resume=config.resume,
        keep_records=config.keep_records,
    )
    console.print(f"wrote {run_dir / 'metrics.json'}, {run_dir / 'report.html'}", markup=False, soft_wrap=True)
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


def _fabric(devices: int, device: torch.device) -> Fabric:
    """The processes that share the images, started."""
    if type(devices) is not int or devices < 1:
        raise ConfigError(f"devices={devices!r}; expected how many processes share the images, from 1")
    strategy = "ddp" if devices > 1 else "auto"
    fabric = make_fabric(f"devices={devices}", accelerator=device.type, devices=devices, strategy=strategy)
    fabric.launch()
    return fabric


def _listed(option: object) -> list[Path]:
    """The paths of an option that takes null, one or a list."""
    if option is None:
        return []
    return [Path(str(value)) for value in option] if isinstance(option, ListConfig) else [Path(str(option))]


def _run_config(folder: Path) -> DictConfig:
    file = folder / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"run={folder}: {file} does not exist; expected the folder of a training run")
    try:
        found = OmegaConf.load(file)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not readable as YAML ({error})") from error
    if not isinstance(found, DictConfig) or not {"model", "data"} <= found.keys():
        raise ConfigError(f"{file}: not the configuration of a training run; expected the sections model and data")
    return found


def _section(config: DictConfig, runs: dict[Path, DictConfig], name: str, default: str) -> dict[str, Any]:
    """A section as the command line names it, as the runs have it, or the default, in this order."""
    section = config[name]
    if section.name == OF_RUN and runs:
        first, *others = runs
        section = runs[first][name]
        for other in others:
            for key in DECIDING[name]:
                if runs[other][name].get(key) != section.get(key):
                    raise ConfigError(
                        f"run={other}: {name}.{key} is {runs[other][name].get(key)}, but {section.get(key)} "
                        f"in {first}; expected runs of one {name}, or {name}=…"
                    )
    elif section.name == OF_RUN:
        section = OmegaConf.merge({"paths": config.paths}, {name: OmegaConf.load(CONFIGS / name / f"{default}.yaml")})
        section = section[name]
    values: dict[str, Any] = OmegaConf.to_container(section, resolve=True)  # type: ignore[assignment]
    return values
