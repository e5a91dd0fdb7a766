"""JSON files of records, with errors that say where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sam3_hyperet.data.annotations import one_line, shown
from sam3_hyperet.errors import DataError


def read_json(path: Path) -> Any:
    """The content of `path`. Raises DataError naming it."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({one_line(error)})") from None


def records(content: Any, key: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each object of the list content[key], with the words an error about it begins with."""
    if key not in content:
        raise DataError(
            f"{path}: the key {key!r} is missing; found {', '.join(map(shown, list(content)[:8])) or 'none'}"
        )
    listed = content[key]
    if not isinstance(listed, list):
        raise DataError(f"{path}: {key} is {shown(listed)}, expected a list")
    for position, record in enumerate(listed):
        where = f"{path}: {key}[{position}]"
        if not isinstance(record, dict):
            raise DataError(f"{where} is {shown(record)}, expected an object")
        yield where, record


def field(record: Mapping[str, Any], key: str, where: str) -> Any:
    """record[key], or a DataError that says it is missing."""
    if key not in record:
        raise DataError(f"{where}: the key {key!r} is missing")
    return record[key]
