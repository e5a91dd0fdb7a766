"""The command line that all tools share: composition and checks of options, and one clear line for a user's error.

Nothing here imports torch, so that help and mistakes cost no time.
"""

import errno
import functools
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

from sam3_hyperet.cli.help_text import help_of_files, help_of_section, help_of_tool
from sam3_hyperet.cli.of_run import OF_RUN, read_yaml, sections_of_runs
from sam3_hyperet.cli.sections import MORE_DATA, SECTIONS, check_key
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.errors import ConfigError, UserError
from sam3_hyperet.files import replacing
from sam3_hyperet.options import admits, close, current_name, current_names, defaults, read_options

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next(folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir())
"""The folder in an installed package, or else that of the repository."""

_HELP, _SHOW = ("-h", "--help"), "--cfg"
_SWITCHES = {"--json": "json=true"}
_FOLDERS = {"prepare": ("data.root", "root"), "init": ("data.root", "root")}
"""Options that a tool takes without their name, as its first word, with their other names."""
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
            raise ConfigError(_unknown(f"{tool}: subcommand", subcommand, files))
        command, file = f"{tool} {subcommand}", files[subcommand]
    if flags.intersection(_HELP):
        _exit_with(_help(command, file, configs, arguments))
    config = _composed(command, file, arguments, configs)
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
            message = user_message(error)
            if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None

    return run


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


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all; NaN is refused (ValueError). Parent folders are made."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def check_output(out: str | Path, *inputs: object) -> None:
    """Raise a ConfigError if a file to write is one of those to read, which may be null."""
    if Path(out).resolve() in (Path(str(one)).resolve() for one in inputs if one is not None):
        raise ConfigError(f"out={out} is read as well and would be replaced; expected another file")


def _composed(command: str, file: Path, arguments: Sequence[str], configs: Path) -> DictConfig:
    groups = _groups(file)
    choices, values, run = {}, [], None
    for argument in arguments:
        key, is_assignment, text = argument.partition("=")
        if key in groups and is_assignment:
            choices[key] = OF_RUN if text == groups[key] == OF_RUN else _choice(key, text, configs)
        else:
            values.append(argument)
            run = _value(key, text, expects_text=False) if key == "run" else run
    from_runs = [key for key, default in groups.items() if default == OF_RUN and choices.get(key, OF_RUN) == OF_RUN]
    for key, section in sections_of_runs(run, from_runs, configs).items():
        ConfigStore.instance().store(group=key, name=OF_RUN, node=section)
    overrides = [f"hydra.searchpath=['{configs.as_uri()}']", *(f"{key}='{name}'" for key, name in choices.items())]
    with hydra.initialize_config_dir(config_dir=str(file.parent), version_base="1.3"):
        config = hydra.compose(file.stem, overrides)
    OmegaConf.set_struct(config, False)
    present = {name: cls for name, cls in SECTIONS.items() if name in config}
    for name, cls in present.items():
        config[name] = OmegaConf.merge(defaults(cls), current_names(cls, OmegaConf.to_container(config[name]), name))
    for name, entry in _sets_by_name(config.get(MORE_DATA)).items():
        _set_more(config, str(name), entry, configs)
    for argument in values:
        _set(config, command, argument, configs)
    if missing := sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(f"{command}: needs {' '.join(f'{key}=…' for key in missing)} (see --help)")
    plain = _at_home(OmegaConf.to_container(config, resolve=True))
    for key, value in plain.items():
        check_key(command, key, value)
    for name, cls in present.items():
        plain[name] = asdict(read_options(cls, plain[name], name))
    for name, entry in (plain.get(MORE_DATA) or {}).items():
        plain[MORE_DATA][name] = asdict(read_options(DataOptions, entry, f"{MORE_DATA}.{name}"))
    of_jobs = [argument for argument in arguments if argument.startswith("launcher.")]
    if of_jobs and plain["launcher"]["name"] == "local":
        raise ConfigError(f"{of_jobs[0]} is for jobs; expected launcher=slurm with it")
    if "run" in plain:
        plain[OF_RUN] = from_runs if plain["run"] else []
    return OmegaConf.create(plain)


def _with_parents(file: Path) -> list[Any]:
    """The content of a tool's configuration behind those that its defaults list names without a group."""
    content = OmegaConf.load(file)
    named = (file.with_name(f"{entry}.yaml") for entry in content.get("defaults", []) if isinstance(entry, str))
    return [*(one for parent in named if parent.exists() for one in _with_parents(parent)), content]


def _groups(file: Path) -> dict[str, str]:
    """The groups that a tool's defaults list names, with their choices there."""
    entries = (entry for content in _with_parents(file) for entry in content.get("defaults", []))
    chosen = (item for entry in entries if isinstance(entry, DictConfig) for item in entry.items())
    return {str(name).split()[-1].lstrip("/"): str(choice) for name, choice in chosen}


def _overview(tool: str, files: Mapping[str, Path]) -> str:
    title = f"usage: {command_line(tool)} {'|'.join(files)} key=value …\n"
    firsts = ((name, file.read_text(encoding="utf-8").splitlines()[0]) for name, file in files.items())
    lines = (f"  {name:<12} {first.lstrip('# ')}" for name, first in firsts)
    return "\n".join([title, *lines, f"\n{command_line(tool)} <subcommand> --help lists its keys."])


def _help(command: str, file: Path, configs: Path, topics: Sequence[str]) -> str:
    groups = _groups(file)
    keys = {*groups, *(key for content in _with_parents(file) for key in content)}
    sections = {name: cls for name, cls in SECTIONS.items() if name in keys}
    explained = []
    for topic in (topic for topic in topics if "=" not in topic):
        if topic in sections:
            explained.append(help_of_section(topic, sections[topic], _choices(topic, configs)))
        elif topic in groups:
            explained.append(help_of_files(topic, sorted((configs / topic).glob("*.yaml"))))
        else:
            raise ConfigError(_unknown(f"{command} --help: section", topic, {**sections, **groups}))
    if explained:
        return "\n\n".join(explained)
    firsts = {group: "as run= has it" if default == OF_RUN else default for group, default in groups.items()}
    choices = {group: list(dict.fromkeys([first, *_choices(group, configs)])) for group, first in firsts.items()}
    options = {name: list(defaults(cls)) for name, cls in sections.items()}
    if "paths" in groups:
        options["paths"] = list(map(str, OmegaConf.load(configs / "paths" / f"{groups['paths']}.yaml")))
    return help_of_tool(command_line(command), file, choices, options)


def _choices(group: str, configs: Path) -> list[str]:
    return sorted(path.stem for path in (configs / group).glob("*.yaml"))


def _choice(group: str, text: str, configs: Path) -> str:
    """The name of a group's choice; a file of the user's own gets one."""
    name = text.strip("'\"")
    if name.endswith((".yaml", ".yml")):
        content = read_yaml(Path(name).expanduser(), f"{group}={text}")
        package = "_global_" if group == "experiment" else None
        if group == "data":
            content = OmegaConf.merge({"name": Path(name).stem}, content)
        name = "own_file"
        ConfigStore.instance().store(group=group, name=name, node=content, package=package)
    elif name not in (valid := _choices(group, configs)):
        expected = f"one of {', '.join(valid)}, or a file: {group}=own.yaml"
        if group == "data" and Path(name).expanduser().is_dir():
            expected = f"data=auto data.root={text} for a folder, {expected}"
        raise ConfigError(f"{group}={name!r} is unknown; expected {expected}{close(name, valid)}")
    return name


def _sets_by_name(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping | None):
        raise ConfigError(f"{MORE_DATA}={value!r:.60}; expected data sets by name")
    return value or {}


def _set_more(config: DictConfig, name: str, entry: Any, configs: Path) -> None:
    """Put a data set to train on beside `data` into a configuration: a choice of data=, a file, or options."""
    section = f"{MORE_DATA}.{name}"
    if isinstance(entry, str):
        chosen = f"+data='{_choice('data', entry, configs)}'"
        with hydra.initialize_config_dir(config_dir=str(configs), version_base="1.3"):
            entry = OmegaConf.to_container(hydra.compose(overrides=[chosen]).data)
    config[MORE_DATA] = config.get(MORE_DATA) or {}
    config[MORE_DATA][name] = OmegaConf.merge(defaults(DataOptions), current_names(DataOptions, entry, section))


def _set(config: DictConfig, command: str, argument: str, configs: Path) -> None:
    """Replace one value of a configuration."""
    key, is_assignment, text = argument.partition("=")
    section, *path = key.split(".")
    keys = list(map(str, config))
    if not is_assignment:
        raise ConfigError(f"{command}: {argument!r} is not key=value; the keys are {', '.join(keys)}")
    if section not in keys:  # so are +key and ~key
        raise ConfigError(_unknown(f"{command}: key", key, keys))
    expects_text = False
    cls = SECTIONS.get(section)
    if section == MORE_DATA:
        if len(path) < 2:
            given = _value(key, text, expects_text=False)
            for name, entry in _sets_by_name({path[0]: given} if path else given).items():
                _set_more(config, name, entry, configs)
            return
        if path[0] not in (config[MORE_DATA] or {}):
            raise ConfigError(f"{key}: expected {MORE_DATA}.{path[0]}= before it, a choice of data= or a file")
        section, path, cls = f"{MORE_DATA}.{path[0]}", path[1:], DataOptions
    if cls:
        if not path:
            given = _value(key, text, expects_text=False)
            config[section] = OmegaConf.merge(defaults(cls), current_names(cls, given, section))  # type: ignore[arg-type]
            return
        path[0] = current_name(cls, path[0], section)
        if len(path) > 1 and not admits(cls, path[0], Mapping):  # type: ignore[type-abstract]
            raise ConfigError(f"{key}: {section}.{path[0]} is one value; expected {section}.{path[0]}=…")
        expects_text = admits(cls, path[0], str) and not admits(cls, path[0], tuple)
    elif path and not isinstance(parent := OmegaConf.select(config, ".".join([section, *path[:-1]])), DictConfig):
        raise ConfigError(f"{command}: {key} is not an option")
    elif path and path[-1] not in parent:
        raise ConfigError(_unknown(f"{command}: key", key, [f"{key.rpartition('.')[0]}.{one}" for one in parent]))
    else:
        default = OmegaConf.to_container(config).get(section) if not path else None  # type: ignore[union-attr]
        expects_text = isinstance(default, str) and default != "???"
    OmegaConf.update(config, ".".join([section, *path]), _value(key, text, expects_text=expects_text), merge=False)


def _value(key: str, text: str, *, expects_text: bool) -> Any:
    """What a text on the command line means: a list or mapping, a number, true, false, null, or a text as it is.

    Hydra's grammar reads it where it can. A list or mapping that it cannot read, such as one with an accent or an
    apostrophe, is read as YAML; a text that it would take for several values stays one.
    """
    try:
        override = OverridesParser.create().parse_override(f"key={text}")
        value = text if override.is_sweep_override() else override.value()
    except HydraException:
        if not text.startswith(("[", "{")):
            return text
        try:
            value = OmegaConf.to_container(OmegaConf.create(f"key: {text}"))["key"]
        except (YAMLError, OmegaConfBaseException) as error:
            reason = str(getattr(error, "problem", error)).splitlines()[0]
            raise ConfigError(f"{key}={text} is not a list [a, b] nor a mapping {{a: 1}}: {reason}") from error
    return text if expects_text and type(value) in (int, float, bool) else value


def _at_home(value: Any) -> Any:
    """The same plain values with `~` at the beginning of texts replaced by the home folder."""
    if isinstance(value, dict):
        return {key: _at_home(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_at_home(inner) for inner in value]
    return os.path.expanduser(value) if isinstance(value, str) and (value == "~" or value.startswith("~/")) else value


def _unknown(what: str, found: str, valid: Iterable[str]) -> str:
    near = close(found, valid).removeprefix("; ")
    fault = f"{found!r} is unknown{f' ({near})' if near else ''}" if found else "is missing"
    return f"{what} {fault}; there are {', '.join(valid)}"


def _exit_with(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)
