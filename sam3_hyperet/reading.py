"""Files read safely: regular ones alone, texts in UTF-8, JSON and YAML within bounds."""

import codecs
import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from sam3_hyperet.errors import ConfigError, DataError, UserError

YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError)
"""What loading a YAML text raises: values that its tags or types cannot have are not YAMLErrors."""
_MAX_YAML, _MAX_YAML_NODES, _MAX_YAML_DEPTH = 2_000_000, 100_000, 50
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe, which cannot be read twice", stat.S_IFSOCK: "a socket"}


def regular_file(path: str | Path, error: type[UserError] = DataError) -> Path:
    """`path`, if it is a regular file: opening a pipe or a device may never end. Raises `error` if it is not."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as fault:  # ValueError: a name with a null character
        absent = isinstance(fault, FileNotFoundError | NotADirectoryError | ValueError)
        found = "no such file" if absent else f"cannot be read ({fault.strerror})"  # type: ignore[union-attr]
        raise error(f"{path}: {found}") from None
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "a device")
        raise error(f"{path}: cannot be read (it is {kind}, expected a file)")
    return Path(path)


def foreign_content(path: Path) -> str:
    """What a file is instead of data by its first bytes: empty, a web page, a Git LFS pointer; "" for others."""
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, such as a log-in or error page; download the file itself, logged in"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file that it stands for by `git lfs pull`"
    return "" if start else "it is empty; download or copy it again"


def read_text(path: str | Path, error: type[UserError] = DataError) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises `error` naming it."""
    path = regular_file(path, error)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        with path.open("rb") as file:
            is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        found = "it is UTF-16" if is_utf16 else f"byte {fault.start} is not UTF-8"
        raise error(f"{path}: {found}; expected a text in UTF-8, so save it as that") from None
    except OSError as fault:
        raise error(f"{path}: cannot be read ({fault.strerror or fault})") from None


def read_json(path: str | Path) -> Any:
    """Content of a JSON file of data. Raises DataError naming it."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({foreign_content(Path(path)) or error})") from None


def parse_json(text: str) -> Any:
    """Content of a JSON text. Raises ValueError, in one line, also for deep brackets and a key that occurs twice."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None
    except ValueError as error:
        raise ValueError(" ".join(str(error).split())) from None


def read_yaml_text(path: str | Path, error: type[UserError] = ConfigError) -> str:
    """The text of a YAML file that is safe to load: its aliases do not make it grow beyond all bounds.

    Raises `error` naming the file.
    """
    text = read_text(path, error)
    if len(text) > _MAX_YAML:
        raise error(f"{path}: it has {len(text):,} characters, expected a YAML file of at most {_MAX_YAML:,}")
    try:
        nodes = _yaml_nodes(text)
    except (yaml.YAMLError, ValueError) as fault:
        raise error(f"{path}: not readable as YAML ({' '.join(str(fault).split())})") from None
    if nodes > _MAX_YAML_NODES:
        raise error(f"{path}: its aliases (*name) stand for more than {_MAX_YAML_NODES:,} values; write them out")
    return text


def read_yaml(path: str | Path, error: type[UserError] = ConfigError) -> Any:
    """Content of a YAML file. Raises `error` naming it."""
    text = read_yaml_text(path, error)
    try:
        return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except YAML_ERRORS as fault:
        raise error(f"{path}: not readable as YAML ({' '.join(str(fault).split())})") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r:.60} occurs twice")
    return found


def _yaml_nodes(text: str) -> int:
    """How many values a YAML text stands for once its aliases are replaced; more than the most, or their number."""
    anchors: dict[str, int] = {}
    sizes: list[int] = [0]  # of the collections that are open, from the outermost
    names: list[str | None] = []
    expanded = 1  # at most so often does a value occur once interpolations are replaced
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(0)
            names.append(event.anchor)
            if len(sizes) > _MAX_YAML_DEPTH:
                raise ValueError(f"it is nested deeper than {_MAX_YAML_DEPTH} levels")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            size, anchor = sizes.pop() + 1, names.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise ValueError(f"the alias *{event.anchor} stands for nothing before it")
            size, anchor = anchors[event.anchor], None
        elif isinstance(event, yaml.ScalarEvent):
            size, anchor = 1, event.anchor
            if (expanded := expanded * max(1, event.value.count("${"))) > _MAX_YAML_NODES:
                raise ValueError("its interpolations (${…}) may multiply without bound; write their values out")
        else:
            continue
        if anchor:
            anchors[anchor] = size
        sizes[-1] += size
        if sizes[-1] > _MAX_YAML_NODES:
            break
    return sizes[-1]
