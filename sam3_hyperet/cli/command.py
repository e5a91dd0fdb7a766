"""The command line that all tools share: composition and checks of options, and one clear line for a user's error.

Nothing here imports torch, so that help and mistakes cost no time.
"""

import contextlib
import errno
import functools
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, ParamSpec, TypeVar

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from sam3_hyperet.cli.composition import choices_of, composed, groups_of, section_values, unknown, with_parents
from sam3_hyperet.cli.help_text import help_of_files, help_of_section, help_of_tool
from sam3_hyperet.cli.of_run import OF_RUN
from sam3_hyperet.cli.sections import SECTIONS
from sam3_hyperet.errors import ConfigError, UserError
from sam3_hyperet.options import defaults

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next(folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir())
"""The folder in an installed package, or else that of the repository."""

_HELP, _SHOW = ("-h", "--help"), "--cfg"
_SWITCHES = {"--json": "json=true"}
_FOLDERS = {
    "prepare": ("data.root", "root"),
    "init": ("data.root", "root"),
    "ablate": ("plan",),
    "push": ("adapter", "run"),
    "pull": ("repo",),
    "info": ("adapter", "run"),
}
"""Options that a tool takes without their name, as its first word, with their other names."""
_WORDS = {"data.root": "DIR", "plan": "PLAN", "adapter": "RUN", "repo": "REPO"}
EXPLAINED = {"launcher": ("launcher=slurm",)}
"""The choices of sections whose options a help explains, where the default has none."""
_DISK = (errno.ENOSPC, errno.EDQUOT)

P = ParamSpec("P")
R = TypeVar("R")


def parse_command(tool: str, argv: Sequence[str] | None = None, configs: Path = CONFIGS) -> tuple[str, DictConfig]:
    """Subcommand and checked options of a tool's command line; `--help` and `--cfg` print and exit.

    The options are those of `configs/<tool>/<subcommand>.yaml`, or of `configs/<tool>.yaml` for a tool without
    subcommands (then the subcommand is ""). The defaults list there names groups, whose choices are files, too; the
    sections of `SECTIONS` have the defaults of their dataclasses below what the files say.

    Raises ConfigError: an unknown subcommand, key or choice, a value that cannot be, or a `???` left without a value.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    flags = {argument for argument in arguments if argument in (*_HELP, _SHOW)}
    ignored = ("job",) if _SHOW in flags else ()  # Hydra's own spelling is --cfg job
    arguments = [argument for argument in arguments if argument not in (*_HELP, _SHOW, *ignored)]
    arguments = [_SWITCHES.get(argument, argument) for argument in arguments]
    arguments = in_words(tool, arguments) if not flags.intersection(_HELP) else arguments
    command, file = tool, configs / f"{tool}.yaml"
    if not file.exists():
        files = {path.stem: path for path in sorted((configs / tool).glob("*.yaml"))}
        if flags.intersection(_HELP) and not arguments:
            _exit_with(_overview(tool, files))
        subcommand = arguments.pop(0) if arguments else ""
        if subcommand not in files:
            raise ConfigError(unknown(f"{tool}: subcommand", subcommand, files))
        command, file = f"{tool} {subcommand}", files[subcommand]
    if flags.intersection(_HELP):
        _exit_with(_help(command, file, configs, arguments))
    config = composed(command, file, arguments, configs)
    if _SHOW in flags:
        _exit_with(OmegaConf.to_yaml(config).rstrip())
    return command.removeprefix(tool).strip(), config


def in_words(tool: str, arguments: Sequence[str]) -> list[str]:
    """Arguments with the folder that a tool takes as its first word, or by another name, as the option that it is."""
    option, *others = _FOLDERS.get(tool, ("",))
    given = list(arguments)
    if option and given and "=" not in given[0] and not given[0].startswith("-"):
        given[0] = f"{option}={given[0]}"
    aliases = tuple(f"{name}=" for name in others)
    return [f"{option}={one.partition('=')[2]}" if aliases and one.startswith(aliases) else one for one in given]


def command_line(command: str, *arguments: str) -> str:
    """A command to paste into a shell, called the way that this process was: by the script's path or by its name."""
    tool, *rest = command.split()
    script = Path(sys.argv[0])
    if script.suffix == ".py" and script.parent.name in ("tools", "datasets"):
        called = f"python {shlex.quote(str(script.parents[1] / 'tools' / f'{tool}.py'))}"
    else:
        called = f"python -m {_PACKAGE.name} {tool}" if script.parent.name == _PACKAGE.name else f"sam3-hyperet {tool}"
    return " ".join([called, *rest, *map(shlex.quote, arguments)])


def exit_cleanly(main: Callable[P, R]) -> Callable[P, R]:
    """Turn a user's error (UserError, a missing file, a wrong override, Ctrl-C) into one line and an exit status.

    Other exceptions keep their traceback, and so does every exception where HYDRA_FULL_ERROR=1 is set.
    """

    @functools.wraps(main)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return main(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as error:
            message, is_waited_for = user_message(error), _is_waited_for()
            is_traced = message is None or os.environ.get("HYDRA_FULL_ERROR") == "1"
            if is_traced and not is_waited_for:
                raise
            print(traceback.format_exc() if is_traced else f"error: {message}", file=sys.stderr)
            status = 130 if isinstance(error, KeyboardInterrupt) else 1
            if is_waited_for:
                _leave_at_once(status)
            raise SystemExit(status) from None

    return run


def _is_waited_for() -> bool:
    """Whether other processes of a run may wait for this one on their GPUs; NCCL's end at exit waits for them."""
    distributed = getattr(sys.modules.get("torch"), "distributed", None)  # no tool imports it for this
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return False
    return "nccl" in distributed.get_backend() and distributed.get_world_size() > 1


def _leave_at_once(status: int) -> NoReturn:
    """End this process without what runs at exit, and those that it has started, so that whoever started it knows."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # by which PyTorch raises an error for a loader that is killed
        sys.stdout.flush()
        sys.stderr.flush()
        for children in Path("/proc/self/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread or a child has just ended
                for child in children.read_text().split():
                    os.kill(int(child), signal.SIGKILL)
    finally:
        os._exit(status)


def user_message(error: BaseException) -> str | None:
    """The one line that tells a user what to mend, or None where the error is a bug."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, InterpolationResolutionError):
        return str(error).splitlines()[0]
    if isinstance(error, UserError | HydraException | OmegaConfBaseException):
        return " ".join(str(error).partition("Config search path")[0].split())
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK):
        return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part is not None)
    return None


def check_output(out: str | Path, *inputs: object) -> None:
    """Raise a ConfigError if a file to write is one of those to read, which may be null."""
    if Path(out).resolve() in (Path(str(one)).resolve() for one in inputs if one is not None):
        raise ConfigError(f"out={out} is read as well and would be replaced; expected another file")


def _overview(tool: str, files: Mapping[str, Path]) -> str:
    title = f"usage: {command_line(tool)} {'|'.join(files)} key=value …\n"
    firsts = ((name, file.read_text(encoding="utf-8").splitlines()[0]) for name, file in files.items())
    lines = (f"  {name:<12} {first.lstrip('# ')}" for name, first in firsts)
    return "\n".join([title, *lines, f"\n{command_line(tool)} <subcommand> --help lists its keys."])


def _help(command: str, file: Path, configs: Path, topics: Sequence[str]) -> str:
    groups = groups_of(file)
    keys = {*groups, *(key for content in with_parents(file) for key in content)}
    sections = {name: cls for name, cls in SECTIONS.items() if name in keys}
    if command in _FOLDERS and topics and topics[0] not in {**sections, **groups}:
        topics = topics[1:]  # ablate evidence --help
    explained, given = [], [topic for topic in topics if "=" in topic]
    for topic in (topic for topic in topics if "=" not in topic):
        if topic in sections:
            chosen = [*EXPLAINED.get(topic, ()), *given]
            values = section_values(command, file, chosen, topic, configs)
            explained.append(help_of_section(topic, sections[topic], values, choices_of(topic, configs)))
        elif topic in groups:
            explained.append(help_of_files(topic, sorted((configs / topic).glob("*.yaml"))))
        else:
            raise ConfigError(unknown(f"{command} --help: section", topic, {**sections, **groups}))
    if explained:
        return "\n\n".join(explained)
    firsts = {group: "as run= has it" if default == OF_RUN else default for group, default in groups.items()}
    choices = {group: list(dict.fromkeys([first, *choices_of(group, configs)])) for group, first in firsts.items()}
    options = {name: list(defaults(cls)) for name, cls in sections.items()}
    if "paths" in groups:
        options["paths"] = list(map(str, OmegaConf.load(configs / "paths" / f"{groups['paths']}.yaml")))
    word = _WORDS[_FOLDERS[command][0]] if command in _FOLDERS else ""
    return help_of_tool(command_line(command), word, file, choices, options)


def _exit_with(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)
