"""Benchmarks of speed and memory, which are in the repository and not in the installed package."""

import importlib
import sys

from omegaconf import OmegaConf

from sam3_hyperet.cli.command import CONFIGS, parse_command, write_json
from sam3_hyperet.errors import ConfigError


def main(argv: list[str] | None = None) -> dict[str, object]:
    """Run the tool; returns the measurements. Raises ConfigError for impossible values, or without `benchmarks/`."""
    subcommand, config = parse_command("benchmark", argv)
    options = OmegaConf.to_container(config)
    out = options.pop("out")
    defaults = OmegaConf.to_container(OmegaConf.load(CONFIGS / "benchmark" / f"{subcommand}.yaml"))
    for key, value in options.items():
        kind = type(defaults[key])
        if type(value) is not kind or (kind is int and value < 1):
            expected = {bool: "true or false", int: "an integer from 1", str: "text", list: "a list"}[kind]
            raise ConfigError(f"benchmark {subcommand}: {key}={value}; expected {expected}")
    repository = CONFIGS.parent
    if not (repository / "benchmarks").is_dir():
        raise ConfigError("benchmark: benchmarks/ is not in the installed package; expected a clone of the repository")
    sys.path.insert(0, str(repository))
    measured: dict[str, object] = importlib.import_module(f"benchmarks.{subcommand}").run(**options)
    if subcommand == "large":  # the others print their own table
        for key, value in measured.items():
            print(f"{key}: {value}")
    if out is not None:
        write_json(out, measured)
    return measured
