"""The configuration that a command line describes: composed of files, with single values replaced, and checked.

Nothing here imports torch.
"""

import contextlib
import functools
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sam3_hyperet.cli.of_run import OF_RUN, read_yaml, sections_of_runs
from sam3_hyperet.cli.sections import MORE_DATA, SECTIONS, check_key
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import admits, close, current_name, current_names, defaults, read_options

_OWN_FILE = "own_file"
_NO_TEXT = (int, float, bool)
_TEXTS = frozenset(
    (
        *("adapter", "adapter_file", "annotations", "arms", "base_model", "bases", "carry_over", "csv", "evaluations"),
        *("exemplars", "gt", "images", "init_adapter", "labels", "names", "note", "only", "out", "plan", "predictions"),
        *("preview", "prompts", "repo", "reuse", "revision", "root", "run", "run_dir", "tree", "weights", "worlds"),
    )
)
"""Keys of no section whose values are names, paths or lists of them, also where they look like numbers: 2024_10_05."""
_NUMBERS = {("ablate", "images")}  # of which a command has no texts


def _unchecked(command: str, file: Path, arguments: Sequence[str], configs: Path) -> tuple[DictConfig, list[str]]:
    """The configuration of a command before it is resolved and checked, and its groups that are a run's own."""
    written = _written(file.parent, configs)
    groups = _groups_read(file, written)
    choices, values, run = {}, [], None
    for argument in arguments:
        key, is_assignment, text = argument.partition("=")
        if key in groups and is_assignment:
            choices[key] = OF_RUN if text == groups[key] == OF_RUN else _choice(key, text, configs)
        else:
            values.append(argument)
            run = _value(key, text, expects_text=True) if key == "run" else run
    from_runs = [key for key, default in groups.items() if default == OF_RUN and choices.get(key, OF_RUN) == OF_RUN]
    for key, section in sections_of_runs(run, from_runs, configs, command).items():
        ConfigStore.instance().store(group=key, name=OF_RUN, node=section)
    of_runs = dict.fromkeys(from_runs, OF_RUN)
    chosen = (tuple(choices.items()), configs, written, _own({**choices, **of_runs}))
    config: DictConfig = pickle.loads(_composed_files(file, *chosen))
    present = {name: cls for name, cls in SECTIONS.items() if name in config}
    for name, entry in _sets_by_name(config.get(MORE_DATA)).items():
        _set_more(config, str(name), entry, configs)
    given = {argument.partition("=")[0] for argument in values if not argument.endswith("=null")}
    for name, cls in present.items():  # a value that is given replaces what a file says instead
        for one, other in getattr(cls, "ALTERNATIVES", {}).items():
            if (
                given & {one, f"{name}.{one}"} and f"{name}.{other}" not in given
            ):  # `scheme=` is short for hyperet.scheme
                config[name][other] = None
    for argument in values:
        _set(config, command, argument, configs)
    return config, from_runs


def composed(command: str, file: Path, arguments: Sequence[str], configs: Path) -> DictConfig:
    """The checked configuration of a command: of `file`, the chosen files of its groups, and single values."""
    config, from_runs = _unchecked(command, file, arguments, configs)
    present = {name: cls for name, cls in SECTIONS.items() if name in config}
    if missing := sorted(_missing(OmegaConf.to_container(config))):
        raise ConfigError(f"{command}: needs {' '.join(f'{key}=…' for key in missing)} (see --help)")
    values = _at_home(plain(config))
    for key, value in values.items():
        check_key(command, key, value)
    for name, cls in present.items():
        values[name] = _checked(cls, values[name], name)
    for name, entry in (values.get(MORE_DATA) or {}).items():
        values[MORE_DATA][name] = _checked(DataOptions, entry, f"{MORE_DATA}.{name}")
    of_jobs = [argument for argument in arguments if argument.startswith("launcher.")]
    if of_jobs and values["launcher"]["name"] == "local":
        raise ConfigError(f"{of_jobs[0]} is for jobs; expected launcher=slurm with it")
    if "run" in values:
        values[OF_RUN] = from_runs if values["run"] else []
    composed: DictConfig = OmegaConf.create(values)
    return composed


def section_values(command: str, file: Path, arguments: Sequence[str], section: str, configs: Path) -> dict[str, Any]:
    """A section's options as a command has them with these arguments; a value that misses another is its own text."""
    config, _ = _unchecked(command, file, arguments, configs)
    values = plain(config[section], resolve=False)
    for key in values:
        with contextlib.suppress(OmegaConfBaseException):
            resolved = config[section][key]
            values[key] = OmegaConf.to_container(resolved, resolve=True) if OmegaConf.is_config(resolved) else resolved
    return values


def _checked(cls: type[Any], values: Mapping[str, object], section: str) -> dict[str, object]:
    """A section's options, checked; what was given matters to a data set that is to be recognised alone."""
    options = read_options(cls, values, section)
    if isinstance(options, DataOptions):
        options = replace(options, given=tuple(dict.fromkeys(options.given)) if options.format == "auto" else ())
    return asdict(options)


def _with_defaults(cls: type, section: Any, name: str) -> DictConfig:
    """A section's options on top of their defaults; those of a data set say which of them were given."""
    values = current_names(cls, section, name)
    if cls is DataOptions and "given" not in values:
        values["given"] = list(values)
    return with_values(OmegaConf.create(defaults(cls)), values)


def plain(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """The plain values of a configuration or section."""
    return OmegaConf.to_container(config, resolve=resolve)  # type: ignore[return-value]


def with_values(config: DictConfig, values: Mapping[str, object]) -> DictConfig:
    """A configuration with some values in place of its own."""
    merged = OmegaConf.merge(config, values)
    assert isinstance(merged, DictConfig)
    return merged


def _missing(values: Any, key: str = "") -> Iterable[str]:
    """The keys below `key` that were left without a value; OmegaConf's own search fails at a key that points to one."""
    if values == "???":
        yield key
    inner: Iterable[tuple[object, Any]] = ()
    if isinstance(values, dict | list):
        inner = values.items() if isinstance(values, dict) else enumerate(values)
    for name, value in inner:
        own = f"[{name}]" if isinstance(values, list) else f".{name}" if key else str(name)
        yield from _missing(value, f"{key}{own}")


def _written(*folders: Path) -> frozenset[tuple[Path, int]]:
    """The YAML files of the folders, and when each was last written."""
    files = (file for folder in dict.fromkeys(folders) for file in folder.rglob("*.yaml"))
    return frozenset((file, file.stat().st_mtime_ns) for file in files)


def _own(choices: Mapping[str, str]) -> tuple[str, ...]:
    """The contents of the choices that are files of the user's own, or of runs."""
    store = ConfigStore.instance()
    return tuple(
        repr(store.load(f"{group}/{name}.yaml").node) for group, name in choices.items() if name in (_OWN_FILE, OF_RUN)
    )


@functools.lru_cache(maxsize=256)
def _composed_files(
    file: Path,
    choices: tuple[tuple[str, str], ...],
    configs: Path,
    written: frozenset[tuple[Path, int]],
    own: tuple[str, ...],
) -> bytes:
    """What the files of a tool and of its groups' choices say together, on top of the sections' defaults; read once, as
    long as none is `written` anew and the user's `own` are the same.

    A study composes hundreds of configurations of the same files. It is pickled: a copy to change is loaded in a
    seventh of the time of a deep copy.
    """
    overrides = [f"hydra.searchpath=['{configs.as_uri()}']", *(f"{key}='{name}'" for key, name in choices)]
    with hydra.initialize_config_dir(config_dir=str(file.parent), version_base="1.3"):
        config = hydra.compose(file.stem, overrides)
    OmegaConf.set_struct(config, False)
    for name, cls in SECTIONS.items():
        if name in config:
            config[name] = _with_defaults(cls, plain(config[name], resolve=False), name)
    return pickle.dumps(config)


@functools.lru_cache(maxsize=64)
def _groups_read(file: Path, written: frozenset[tuple[Path, int]]) -> dict[str, str]:
    """`groups_of`, read once as long as no file is `written` anew; not to be changed."""
    return groups_of(file)


def with_parents(file: Path) -> list[Any]:
    """The content of a tool's configuration behind those that its defaults list names without a group."""
    content = OmegaConf.load(file)
    assert isinstance(content, DictConfig)
    named = (file.with_name(f"{entry}.yaml") for entry in content.get("defaults", []) if isinstance(entry, str))
    return [*(one for parent in named if parent.exists() for one in with_parents(parent)), content]


def groups_of(file: Path) -> dict[str, str]:
    """The groups that a tool's defaults list names, with their choices there."""
    entries = (entry for content in with_parents(file) for entry in content.get("defaults", []))
    chosen = (item for entry in entries if isinstance(entry, DictConfig) for item in entry.items())
    return {str(name).split()[-1].lstrip("/"): str(choice) for name, choice in chosen}


def choices_of(group: str, configs: Path) -> list[str]:
    return sorted(path.stem for path in (configs / group).glob("*.yaml"))


def _choice(group: str, text: str, configs: Path) -> str:
    """The name of a group's choice; a file of the user's own gets one."""
    name = text.strip("'\"")
    if name.endswith((".yaml", ".yml")):
        content = read_yaml(Path(name).expanduser(), f"{group}={text}")
        package = "_global_" if group == "experiment" else None
        if group == "data":
            content = with_values(OmegaConf.create({"name": Path(name).stem}), content)
        name = _OWN_FILE
        ConfigStore.instance().store(group=group, name=name, node=content, package=package)
    elif name not in (valid := choices_of(group, configs)):
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
    config[MORE_DATA][name] = _with_defaults(DataOptions, entry, section)


def _set(config: DictConfig, command: str, argument: str, configs: Path) -> None:
    """Replace one value of a configuration."""
    key, is_assignment, text = argument.partition("=")
    section, *path = key.split(".")
    keys = list(map(str, config))
    if not is_assignment:
        raise ConfigError(f"{command}: {argument!r} is not key=value; the keys are {', '.join(keys)}")
    if section not in keys:  # so are +key and ~key
        raise ConfigError(unknown(f"{command}: key", key, keys))
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
            config[section] = _with_defaults(cls, given, section)
            return
        path[0] = current_name(cls, path[0], section)
        if cls is DataOptions and path[0] != "given":
            options = OmegaConf.select(config, section)
            options.given = [*options.given, path[0]]
        if len(path) > 1 and not admits(cls, path[0], Mapping):
            raise ConfigError(f"{key}: {section}.{path[0]} is one value; expected {section}.{path[0]}=…")
        expects_text = admits(cls, path[0], str) and not admits(cls, path[0], tuple)
    elif path and not isinstance(parent := OmegaConf.select(config, ".".join([section, *path[:-1]])), DictConfig):
        raise ConfigError(f"{command}: {key} is not an option")
    elif path and path[-1] not in parent:
        raise ConfigError(unknown(f"{command}: key", key, [f"{key.rpartition('.')[0]}.{one}" for one in parent]))
    else:
        default = OmegaConf.to_container(config).get(section)  # type: ignore[union-attr]
        is_text = section in _TEXTS and (command, section) not in _NUMBERS and not isinstance(default, int)
        expects_text = not path and (is_text or (isinstance(default, str) and default != "???"))
    OmegaConf.update(config, ".".join([section, *path]), _value(key, text, expects_text=expects_text), merge=False)


def _value(key: str, text: str, *, expects_text: bool) -> Any:
    """What a text on the command line means: a list or mapping, a number, true, false, null, or a text as it is.

    Hydra's grammar reads it where it can. A list or mapping that it cannot read, such as one with an accent or an
    apostrophe, is read as YAML; a text that it would take for several values stays one. Where a text is expected, so
    is each element of a list.
    """
    try:
        override = OverridesParser.create().parse_override(f"key={text}")
        value = text if override.is_sweep_override() else override.value()
    except HydraException:
        if not text.startswith(("[", "{")):
            return text
        try:
            read: Any = OmegaConf.to_container(OmegaConf.create(f"key: {text}"))
            value = read["key"]
        except (YAMLError, OmegaConfBaseException) as error:
            reason = str(getattr(error, "problem", error)).splitlines()[0]
            raise ConfigError(f"{key}={text} is not a list [a, b] nor a mapping {{a: 1}}: {reason}") from error
    if not expects_text:
        return value
    if isinstance(value, list) and len(written := [one.strip() for one in text.strip("[]").split(",")]) == len(value):
        return [said if type(one) in _NO_TEXT else one for one, said in zip(value, written, strict=True)]
    return text if type(value) in _NO_TEXT else value


def _at_home(value: Any) -> Any:
    """The same plain values with `~` at the beginning of texts replaced by the home folder."""
    if isinstance(value, dict):
        return {key: _at_home(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_at_home(inner) for inner in value]
    return os.path.expanduser(value) if isinstance(value, str) and (value == "~" or value.startswith("~/")) else value


def unknown(what: str, found: str, valid: Iterable[str]) -> str:
    valid = list(valid)
    near = (close(found, valid) or close(found.partition(".")[0], valid)).removeprefix("; ")
    fault = f"{found!r} is unknown{f' ({near})' if near else ''}" if found else "is missing"
    return f"{what} {fault}; there are {', '.join(valid)}"
