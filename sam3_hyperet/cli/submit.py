"""`launcher=slurm` of `train`: one run, or a sweep as one array, each with its own saved configuration."""

import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.doctor import check_before_submission
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import Manifest, replacing, sole_use
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.launch.slurm import TrainingJob, open_executor, script, submit
from sam3_hyperet.options import read_options
from sam3_hyperet.training.options import CONFIG_FILE, TrainOptions

_CHECKED = ("model", "hyperet", "stage", "data", "more_data", "train", "cache", "launcher", "evaluate")
"""Keys that decide what `doctor` finds: runs of a sweep in which they are the same are checked once."""


def parse_runs(tool: str, argv: Sequence[str] | None = None) -> tuple[list[DictConfig], Path]:
    """Every run that a command line describes, and the folder that they share.

    With another launcher than local, comma-separated values (scheme=A,B,C) and ranges (seed=range(0,3)) are a run each,
    in a folder of its own; `launcher.…=` excepted. Without, there is one run, and the folder is its own.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_submitted = any(one.startswith("launcher=") and one != "launcher=local" for one in arguments)
    choices = [_choices(argument) if is_submitted else [argument] for argument in arguments]
    configs = [parse_command(tool, combination)[1] for combination in itertools.product(*choices)]
    folder = Path(configs[0].run_dir)
    if len(configs) > 1:
        swept = [position for position, values in enumerate(choices) if len(values) > 1]
        for config, combination in zip(configs, itertools.product(*choices), strict=True):
            parts = [re.sub(r"[^\w.+-]+", "-", combination[position]).strip("-") for position in swept]
            config.run_dir = str(folder / "-".join([config.name, *parts]))
        if len({config.run_dir for config in configs}) < len(configs):
            raise ConfigError(f"launcher=slurm: two runs of the sweep would be written to {configs[0].run_dir}")
    return configs, folder


def submit_runs(train: str, configs: Sequence[DictConfig], folder: Path) -> Path:
    """Submit the runs that `parse_runs` read, or print the script if `launcher.dry_run`; returns `folder`.

    Each task of a job calls `train`, given as "package.module:function".
    """
    from sam3_hyperet.launch.memory import estimate  # imports torch, and a command line is read without

    console = Console(highlight=False, soft_wrap=True)
    plain = [OmegaConf.to_container(config, resolve=True) for config in configs]
    options = read_options(SlurmOptions, plain[0]["launcher"], "launcher")
    for values in plain:
        if values["launcher"] != plain[0]["launcher"]:
            raise ConfigError("launcher=slurm: the runs of a sweep are one array; expected the same launcher.… of all")
        train_options = read_options(TrainOptions, values["train"], "train")
        options.check(train_options)
        sections = (values[name] for name in ("model", "hyperet", "stage"))
        expected = estimate(*sections, train_options.max_steps, Path(values["run_dir"]))
        asked = "the cluster's default" if options.mem_gb is None else f"{options.mem_gb:g} GB"
        console.print(
            f"{values['run_dir']}: {expected}; asked for: {options.nodes} x {options.tasks_per_node} processes, "
            f"{asked} a node, {options.timeout_min} min, then requeued up to {options.max_timeouts} times"
        )
        needed = options.tasks_per_node * expected.memory_gb
        if options.mem_gb is not None and options.mem_gb < needed:
            processes = f"the {options.tasks_per_node} processes of a node need {needed:.2f} GB"
            raise ConfigError(f"launcher.mem_gb={options.mem_gb:g}, but {processes} without any activations")
    logs, name = folder / "slurm", plain[0]["name"]
    if options.dry_run:
        console.print(script(options, logs, name, len(configs)), markup=False)
        return folder
    if options.doctor:
        _check(plain, console)
    executor = open_executor(options, logs, name)
    for config in configs:
        run_dir = Path(config.run_dir)
        with sole_use(run_dir):
            Manifest(run_dir).claim(CONFIG_FILE)
            with replacing(run_dir / CONFIG_FILE) as file:
                file.write_text(OmegaConf.to_yaml(config, resolve=True), encoding="utf-8")
    jobs = submit(executor, [TrainingJob(train, values) for values in plain])
    for job, values in zip(jobs, plain, strict=True):
        log = logs / f"{job}_0_log.out"
        console.print(f"submitted {job}: {values['run_dir']}; log: {log}; to end it: scancel {job}")
    return folder


def _check(runs: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the warnings of `doctor`, each once. Raises ConfigError if one of the runs would fail."""
    warned: set[str] = set()
    checked: list[dict[str, Any]] = []
    for values in runs:
        same = {key: values[key] for key in _CHECKED}
        if same in checked:
            continue
        checked.append(same)
        for line in check_before_submission(values):
            if line not in warned:
                console.print(line, markup=False)
            warned.add(line)


def _choices(argument: str) -> list[str]:
    """The overrides that a sweep's argument stands for; any other argument alone."""
    if argument.startswith("launcher"):
        return [argument]
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return [argument]  # parse_command says what is wrong with it
    if not override.is_sweep_override():
        return [argument]
    return [f"{override.key_or_group}={value}" for value in override.sweep_string_iterator()]
