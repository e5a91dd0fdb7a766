"""`sam3-hyperet` and `python -m sam3_hyperet`: one command for all tools; `tools/*.py` are doors to the same.

Imports are within functions, so that Ctrl-C while they run is one line, too.
"""

import pkgutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sam3_hyperet.version import __version__

TOOLS = {  # function, and what it does
    "train": ("train:main", "train adapters, then score base and adapted model and write the report"),
    "evaluate": ("evaluate:main", "score the base and adapted models side by side: run=DIR or adapter=FILE"),
    "predict": ("predict:main", "find what phrases name on images: images=PATH prompts=car,wheel run=DIR"),
    "demo": ("demo:main", "try phrases and the dial on a page in the browser: run=DIR, or nothing at all"),
    "merge": ("merge:main", "fold an adapter into the base weights: run=DIR out=FILE"),
    "export": ("export:main", "write ONNX files of a model with its adapter: run=DIR out=DIR"),
    "push": ("push:main", "share an adapter on the Hugging Face hub, with a model card: RUN repo=user/name"),
    "pull": ("pull:main", "fetch a shared adapter into a folder: hub:user/name out=DIR"),
    "info": ("info:main", "say what an adapter is: a file, a run's folder or hub:user/name"),
    "score": ("score:main", "metrics of prediction files that anyone made: score coco|cgf1|semantic"),
    "prepare": ("prepare:main", "check a data set before it is used: DIR"),
    "init": ("init:main", "write a data file and an experiment for a folder of your own: DIR"),
    "doctor": ("doctor:main", "say what would fail in a run before it does: options of train, or run=DIR"),
    "forecast": ("forecast:main", "say what memory a step takes, and what fits on 12 to 80 GB cards: options of train"),
    "ablate": ("ablate:main", "compare arms over bases and seeds by a plan, and say what differs: PLAN"),
    "radius": (
        "radius:main",
        "measure the radii of vision encoders: encoder=timm:NAME images=DIR resolution=[224,448]",
    ),
    "benchmark": ("benchmark:main", "measure speed and memory (in the repository only)"),
    "pretrain": ("pretrain:main", "train the tiny base from scratch, as the weights in the package were"),
}
_PARSES_ITSELF = ("ablate",)  # before it imports anything heavy
_TRAINING, _SUBMITTED = ("train", "pretrain"), ("evaluate", "predict")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool that the first argument names."""
    _exiting_cleanly(_main, list(sys.argv[1:] if argv is None else argv) or ["--help"])


def run_tool(tool: str, argv: Sequence[str] | None = None) -> None:
    """Run a tool. Its command line is checked, and its help printed, before anything heavy is imported."""
    _exiting_cleanly(_run, tool, list(sys.argv[1:] if argv is None else argv))


def _exiting_cleanly(function: Callable[..., None], *arguments: Any) -> None:
    try:
        from sam3_hyperet.cli.command import exit_cleanly

        exit_cleanly(function)(*arguments)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _main(arguments: list[str]) -> None:
    from sam3_hyperet.errors import ConfigError
    from sam3_hyperet.options import close

    tool, *rest = arguments
    if tool in ("-h", "--help", "help"):
        print(_overview())
    elif tool == "--version":
        print(__version__)
    elif tool in TOOLS:
        _run(tool, rest)
    else:
        raise ConfigError(f"{tool!r} is no tool; expected one of {', '.join(TOOLS)}{close(tool, TOOLS)}")


def _run(tool: str, arguments: list[str]) -> None:
    from omegaconf import OmegaConf

    from sam3_hyperet.cli.command import parse_command
    from sam3_hyperet.cli.run_options import read_run
    from sam3_hyperet.cli.submit import parse_runs

    if tool in _PARSES_ITSELF:
        pass
    elif tool in _SUBMITTED:
        parse_runs(tool, arguments)
    elif tool in _TRAINING:
        for config in parse_runs(tool, arguments)[0]:
            read_run(OmegaConf.to_container(config))  # type: ignore[arg-type]
    else:
        parse_command(tool, arguments)
    pkgutil.resolve_name(f"sam3_hyperet.cli.{TOOLS[tool][0]}")(arguments)


def _overview() -> str:
    from sam3_hyperet.cli.command import command_line

    command, tools = command_line("TOOL"), "\n".join(f"  {tool:<11}{does}" for tool, (_, does) in TOOLS.items())
    return f"""HyperET for SAM 3: train, evaluate and use tiny hyperbolic adapters of a frozen segmenter.

usage: {command} key=value …

{tools}

{command} --help            what it does, its choices and its keys with their defaults
{command} --help SECTION    each option of a section: data, optim, hyperet, …
{command} … --cfg           print the composed configuration and do nothing

To begin with: {command_line("train", "experiment=smoke")}   (all steps on drawn scenes, in a minute)
With data of your own: {command_line("init", "DIR")}   (then the commands that it prints)"""
