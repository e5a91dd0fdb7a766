"""What every tool's command line shares: options from a config file, one clear line for a user's error."""

from __future__ import annotations

import difflib
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    GrammarParseError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from sam3_hyperet.errors import ConfigError, UserError
from sam3_hyperet.files import replacing

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

_is_reporting: ContextVar[bool] = ContextVar("_is_reporting", default=False)

P = ParamSpec("P")
R = TypeVar("R")


def parse_command(tool: str, argv: Sequence[str] | None = None, configs: Path = CONFIGS) -> tuple[str, DictConfig]:
    """Subcommand and options of `tools/<tool>.py [subcommand] key=value …` (argv: the process's if None).

    The options are those of `configs/<tool>/<subcommand>.yaml`, or of `configs/<tool>.yaml` for a tool
    without subcommands (then the subcommand is ""); its defaults list may name the groups in `configs`.
    A subcommand or key that is not there, or a `???` left without a value, is a ConfigError that lists what
    there is. `--help` prints the file, which documents itself, and exits.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_help = bool({"-h", "--help"} & set(arguments))
    arguments = [argument for argument in arguments if argument not in ("-h", "--help")]
    command, file = tool, configs / f"{tool}.yaml"
    if not file.exists():
        subcommands = {path.stem: path for path in sorted((configs / tool).glob("*.yaml"))}
        if wants_help and not arguments:
            _exit_with(_overview(tool, subcommands))
        subcommand = arguments.pop(0) if arguments else ""
        if subcommand not in subcommands:
            raise ConfigError(_unknown(f"{tool}: subcommand", subcommand, subcommands))
        command, file = f"{tool} {subcommand}", subcommands[subcommand]
    if wants_help:
        folder = "datasets" if tool.startswith("prepare_") else "tools"
        usage = command.replace(tool, f"{folder}/{tool}.py", 1)
        _exit_with(f"usage: python {usage} key=value …\n\n{file.read_text(encoding='utf-8').strip()}")
    search_path = f"hydra.searchpath=['{configs.as_uri()}']"
    with hydra.initialize_config_dir(config_dir=str(file.parent), version_base="1.3"):
        groups = _groups(file)
        keys = list(dict.fromkeys([*groups, *map(str, hydra.compose(file.stem, [search_path]))]))
        overrides = [_override(argument, keys, groups, command) for argument in arguments]
        config = hydra.compose(file.stem, [search_path, *overrides])
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(f"{command}: needs {' '.join(f'{key}=…' for key in missing)} (see --help)")
    OmegaConf.resolve(config)
    return command.removeprefix(tool).strip(), config


def exit_cleanly(main: Callable[P, R]) -> Callable[P, R]:
    """Turn a user's error (UserError, a missing file, a wrong override) into one line and exit status 1.

    Other exceptions keep their traceback, and so does every exception where the user sets HYDRA_FULL_ERROR=1.
    For `@hydra.main`, use `hydra_main`.
    """

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        before = os.environ.get("HYDRA_FULL_ERROR")
        if before == "1" and not _is_reporting.get():
            return main(*args, **kwargs)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra.main then lets exceptions through to us
        token = _is_reporting.set(True)
        try:
            return main(*args, **kwargs)
        except Exception as error:
            message = user_message(error)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(1) from None
        finally:
            _is_reporting.reset(token)
            os.environ.pop("HYDRA_FULL_ERROR", None)
            if before is not None:
                os.environ["HYDRA_FULL_ERROR"] = before

    return run


def hydra_main(config_name: str, configs: Path = CONFIGS) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """`@hydra.main` on `configs/<config_name>.yaml` that exits cleanly.

    `exit_cleanly` goes outside, for Hydra's own errors, and inside, so that Hydra does not report the task's.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        main = hydra.main(config_path=str(configs), config_name=config_name, version_base="1.3")
        return exit_cleanly(main(exit_cleanly(task)))

    return decorate


def user_message(error: BaseException) -> str | None:
    """The one line that tells a user what to mend, or None where the error is a bug."""
    if isinstance(error, InstantiationException):
        return user_message(error.__cause__) if error.__cause__ else None
    if isinstance(error, ConfigCompositionException) and isinstance(error.__cause__, OmegaConfBaseException):
        return f"{str(error).splitlines()[0]} {str(error.__cause__).splitlines()[0]}"
    if isinstance(error, MissingMandatoryValue | InterpolationResolutionError | GrammarParseError):
        return str(error).splitlines()[0]
    if isinstance(error, UserError | HydraException):
        return " ".join(str(error).partition("Config search path")[0].split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    return None


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all; NaN is refused (ValueError). Parent folders are made."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _groups(file: Path) -> list[str]:
    """The config groups that a file's defaults list names: these can be chosen, whatever keys they fill."""
    options = OmegaConf.load(file)
    entries = options.get("defaults", []) if isinstance(options, DictConfig) else []
    names = [str(name).split()[-1].lstrip("/") for entry in entries if hasattr(entry, "keys") for name in entry]
    return [name for name in names if not name.startswith("hydra/")]


def _override(argument: str, keys: Sequence[str], groups: Sequence[str], command: str) -> str:
    """A checked override, its value quoted where Hydra would not take it as it is.

    Those are texts that its grammar reads as several values or none (file names), and numbers as group choices.
    """
    key, is_assignment, value = argument.partition("=")
    if not is_assignment:
        raise ConfigError(f"{command}: {argument!r} is not key=value; the keys are {', '.join(keys)}")
    if key.split(".")[0] not in keys:  # so are +key and ~key
        raise ConfigError(_unknown(f"{command}: key", key, keys))
    if key == "scheme" and "+" in value:  # a combination has no file in the group; HyperETConfig reads it
        return f"hyperet.scheme='{value}'"
    try:
        is_one_value = not OverridesParser.create().parse_override(argument).is_sweep_override()
    except HydraException:
        is_one_value = value.startswith(("{", "["))  # not a text: Hydra says what is wrong with it
    if is_one_value and not (key in groups and value.isdigit()):
        return argument
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def _unknown(what: str, found: str, valid: Mapping[str, Any] | Sequence[str]) -> str:
    listed = ", ".join(valid)
    if not found:
        return f"{what} is missing; there are {listed}"
    close = difflib.get_close_matches(found, valid, n=1)
    return f"{what} {found!r} is unknown{f' (did you mean {close[0]}?)' if close else ''}; there are {listed}"


def _overview(tool: str, subcommands: Mapping[str, Path]) -> str:
    lines = [f"usage: python tools/{tool}.py {'|'.join(subcommands)} key=value …", ""]
    for name, file in subcommands.items():
        lines.append(f"  {name:<12} {file.read_text(encoding='utf-8').partition(chr(10))[0].lstrip('# ')}")
    return "\n".join([*lines, "", f"python tools/{tool}.py <subcommand> --help lists its keys."])


def _exit_with(text: str) -> None:
    print(text)
    raise SystemExit(0)
