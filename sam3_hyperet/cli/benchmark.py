"""Benchmarks of speed and memory, which are in the repository and not in the installed package."""

import importlib
import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sam3_hyperet.cli.command import CONFIGS, exit_cleanly, parse_command
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.doctor import warnings_of
from sam3_hyperet.cli.submit import submit_jobs
from sam3_hyperet.doctor.job import examine_job
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import write_json
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.options import read_options


def main(argv: list[str] | None = None) -> dict[str, object]:
    """Run the tool; returns the measurements, or nothing where it is submitted to Slurm.

    Raises ConfigError for impossible values, or without `benchmarks/`.
    """
    subcommand, config = parse_command("benchmark", argv)
    options: dict[str, Any] = plain(config)
    launcher = read_options(SlurmOptions, options.pop("launcher"), "launcher")
    defaults: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "benchmark" / f"{subcommand}.yaml"))
    for key, value in options.items():
        if key == "out":
            continue
        kind = type(defaults[key])
        if type(value) is not kind or (kind is int and value < 1):
            expected = {bool: "true or false", int: "an integer from 1", str: "text", list: "a list"}[kind]
            raise ConfigError(f"benchmark {subcommand}: {key}={value}; expected {expected}")
    repository = CONFIGS.parent
    if not (repository / "benchmarks").is_dir():
        raise ConfigError("benchmark: benchmarks/ is not in the installed package; expected a clone of the repository")
    if launcher.name == "local":
        return benchmark(subcommand, options)
    folder = Path("runs") / f"benchmark-{subcommand}-{time.strftime('%Y%m%d-%H%M%S')}"
    job = {"subcommand": subcommand, "options": options, "run_dir": str(folder), "launcher": config.launcher}

    def warnings(values: dict[str, Any]) -> list[str]:
        return warnings_of(examine_job(launcher, folder), values["run_dir"])

    function = f"{__name__}:{benchmark_job.__name__}"
    submit_jobs(function, [OmegaConf.create(job)], folder, f"benchmark-{subcommand}", warnings)
    return {}


def benchmark_job(config: DictConfig) -> None:
    """A benchmark as a job on a cluster runs it; what it prints is in the job's log."""
    exit_cleanly(benchmark)(config.subcommand, plain(config.options))


def benchmark(subcommand: str, options: dict[str, Any]) -> dict[str, object]:
    """Measure here and now, and write the measurements to the file `out`, if it is not None."""
    sys.path.insert(0, str(CONFIGS.parent))
    arguments = {key: value for key, value in options.items() if key != "out"}
    measured: dict[str, object] = importlib.import_module(f"benchmarks.{subcommand}").run(**arguments)
    if subcommand == "large":  # the others print their own table
        for key, value in measured.items():
            print(f"{key}: {value}")
    if options["out"] is not None:
        write_json(options["out"], measured)
    return measured
