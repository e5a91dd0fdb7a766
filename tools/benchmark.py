"""Measure speed and memory: python tools/benchmark.py <what> key=value … (--help lists both)."""

import importlib
import sys
from pathlib import Path

from omegaconf import OmegaConf

from sam3_hyperet.cli.command import CONFIGS, exit_cleanly, parse_command, write_json
from sam3_hyperet.errors import ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/, which is not installed


def main(argv: list[str] | None = None) -> dict[str, object]:
    """Run the tool; returns the figures."""
    subcommand, config = parse_command("benchmark", argv)
    options = OmegaConf.to_container(config)
    out = options.pop("out")
    defaults = OmegaConf.load(CONFIGS / "benchmark" / f"{subcommand}.yaml")
    for key, value in options.items():
        kind = type(defaults[key])
        if type(value) is not kind or (kind is int and value < 1):
            expected = {bool: "true or false", int: "an integer from 1", str: "a text"}[kind]
            raise ConfigError(f"benchmark {subcommand}: {key}={value}; expected {expected}")
    figures = importlib.import_module(f"benchmarks.{subcommand}").run(**options)
    if subcommand == "large":  # the others print their own table
        for key, value in figures.items():
            print(f"{key}: {value}")
    if out is not None:
        write_json(out, figures)
    return figures


if __name__ == "__main__":
    exit_cleanly(main)()
