"""`tools/evaluate.py`: score the base and any number of adapted models side by side on any data set."""

import itertools
import os
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

import torch
from omegaconf import OmegaConf
from rich.console import Console

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.compare import compare_and_report
from sam3_hyperet.cli.of_run import listed
from sam3_hyperet.cli.processes import from_first, make_fabric
from sam3_hyperet.cli.recognition import recognised
from sam3_hyperet.data.options import RESERVED_NAMES, DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.models import EXACT, TrainedFiles, open_models
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.files import sole_use
from sam3_hyperet.modeling.opening import set_threads
from sam3_hyperet.options import read_options
from sam3_hyperet.training.run_folder import ADAPTER, WEIGHTS


def main(argv: list[str] | None = None) -> Path:
    """Run the tool; returns the folder with metrics.json and report.html."""
    _, config = parse_command("evaluate", argv)
    protocol = read_options(Protocol, OmegaConf.to_container(config.protocol), "protocol")
    model_values = OmegaConf.to_container(config.model)
    lines: list[str] = []  # printed by the first process alone
    config = recognised(config, lines.append)
    data = read_options(DataOptions, OmegaConf.to_container(config.data), "data")
    use_weights = "model" in config.of_run
    trained = find_trained(listed(config.adapter), listed(config.run), data=data.name, use_weights=use_weights)
    set_threads(config.threads)
    device, devices = choose_device(config.device), config.devices
    strategy = "ddp" if devices > 1 else "auto"
    fabric = make_fabric(f"devices={devices}", accelerator=device.type, devices=devices, strategy=strategy)
    fabric.launch()
    console = Console(highlight=False, quiet=not fabric.is_global_zero)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    with ExitStack() as stack:

        def begin() -> Path:
            if notice := stack.enter_context(sole_use(Path(config.run_dir))):
                console.print(notice, markup=False, soft_wrap=True)
            return Path(config.run_dir)

        run_dir = from_first(fabric, begin)  # whose clock names it
        with fabric.rank_zero_first():  # it may draw the images
            split = open_split(data, str(config.split))
        models = open_models(model_values, trained, fabric.device if fabric.world_size > 1 else device)
        text, kept = OmegaConf.to_yaml(config), {"resume": config.resume, "keep_records": config.keep_records}
        compare_and_report(
            models, data, split, protocol, run_dir, config_text=text, extra={}, console=console, fabric=fabric, **kept
        )
    console.print(f"wrote {run_dir / 'metrics.json'}, {run_dir / 'report.html'}", markup=False, soft_wrap=True)
    return run_dir


def choose_device(name: str) -> torch.device:
    """The device of an option device=auto|cpu|cuda…: auto is CUDA where there is one, gpu another word for it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name.replace("gpu", "cuda", 1))
    except RuntimeError as error:
        raise ConfigError(f"device={name}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name}, but PyTorch finds no CUDA device; expected auto or cpu")
    return device


def find_trained(adapters: list[Path], runs: list[Path], *, data: str, use_weights: bool) -> dict[str, TrainedFiles]:
    """All adapted models, by unique names: those of the adapter files or, without any, of the runs.

    No model gets the name of the data set, `data`. `use_weights` takes the base weights that a run trained, if it did.
    Raises ConfigError for adapter files together with several runs.
    """
    if adapters and len(runs) > 1:
        raise ConfigError(f"adapter= and {len(runs)} runs; expected adapter files, with one run at most, or runs")
    weights = [_existing(run / WEIGHTS["best"]) if use_weights else None for run in runs]
    if adapters:
        # links are not followed: in a cache they lead to a blob without a name
        paths = (Path(os.path.abspath(file)) for file in adapters)
        names = [path.parent.name if path.name in ADAPTER.values() else path.stem for path in paths]
        files = [TrainedFiles(file, *weights) for file in adapters]
    else:
        names = [run.resolve().name for run in runs]
        files = [TrainedFiles(_existing(run / ADAPTER["best"]), own) for run, own in zip(runs, weights, strict=True)]
    found: dict[str, TrainedFiles] = {}
    for name, of_model in zip(names, files, strict=True):
        if of_model.adapter or of_model.weights:  # the name is also that of a folder
            found[unique(name.strip(".") or "adapter", {*found, data, *RESERVED_NAMES, EXACT})] = of_model
    return found


def _existing(file: Path) -> Path | None:
    return file if file.is_file() else None


def unique(name: str, taken: Collection[str]) -> str:
    """`name`, numbered where it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)
