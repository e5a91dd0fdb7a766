"""Files of class names: one a line, in the order of their labels; numbers before the names say where labels begin."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sam3_hyperet.data.annotations import shown
from sam3_hyperet.errors import DataError
from sam3_hyperet.reading import read_json, read_text

_NUMBERED = re.compile(r"\s*(\d+)\s*([:;,.)\t ])\s*(\S.*)")
_HEADER = re.compile(
    r"\W*(id|idx|index|label|value|pixel value|class|train_?id)s?\W+\w*(name|label|class)\w*\W*", re.IGNORECASE
)
_NAME_KEYS, _VALUE_KEYS = ("name", "class_name", "label", "class"), ("id", "value", "png_index", "index", "trainId")


def read_class_names(path: Path) -> tuple[list[str], int | None, Counter[str]]:
    """The names, the label of the first where the file numbers them, and what was left out of the file.

    A JSON file has names, names by label, labels by name, or records of both. labelme's first line, `__ignore__`,
    stands for the label before 0. Raises DataError.
    """
    if path.suffix.lower() == ".json":
        return *_of_json(read_json(path), path), Counter()
    lines = text_lines(path)
    if lines and lines[0].lstrip().startswith(("{", "[")):
        raise DataError(f"{path}: it looks like JSON; expected a name a line, in the order of their labels")
    left_out = Counter[str]()
    if lines and lines[0].strip() == "__ignore__":
        lines = lines[1:]
        left_out["labelme's line __ignore__ before the first name, left out"] += 1
    for number, line in enumerate(lines, start=1):
        if line.lstrip().startswith("#"):
            raise DataError(f"{path}: line {number} is the comment {line.strip()[:60]!r}; expected names alone")
    names, first = _without_numbers(lines, path)
    if first is not None:
        left_out["name with a number before it, which is left out"] += len(names)
    return names, first, left_out


def text_lines(path: Path) -> list[str]:
    """The lines of a text file, without the empty ones at its end."""
    lines = read_text(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _without_numbers(lines: list[str], path: Path) -> tuple[list[str], int | None]:
    rows = lines[1:] if lines and _HEADER.fullmatch(lines[0]) else lines
    matches = [_NUMBERED.fullmatch(line) for line in rows]
    if not rows or not all(matches):
        return lines, None
    numbers, marks, names = zip(*(match.groups() for match in matches if match), strict=True)
    if len(rows) == 1 and rows is lines and (set(marks) == {" "} or names[0][0].isdigit()):  # 2 euro, 3.5 mm screw
        return lines, None
    first = int(numbers[0])
    if [int(number) for number in numbers] == list(range(first, first + len(numbers))):
        return list(names), first
    if set(marks) == {" "} and rows is lines:  # such as the names of coins
        return lines, None
    raise DataError(
        f"{path}: its names are numbered {', '.join(numbers[:6])}{' …' if len(numbers) > 6 else ''}; expected names "
        "alone, a line for each label from the first to the last"
    )


def _of_json(content: Any, path: Path) -> tuple[list[str], int | None]:
    if isinstance(content, list) and all(isinstance(one, str) for one in content):
        return content, None
    if isinstance(content, list) and all(isinstance(one, dict) for one in content):
        names = [next((one[key] for key in _NAME_KEYS if key in one), None) for one in content]
        values = [next((one[key] for key in _VALUE_KEYS if key in one), None) for one in content]
        return _by_value(zip(values, names, strict=True), path)
    if isinstance(content, dict) and all(isinstance(name, str) for name in content.values()):
        return _by_value(content.items(), path)
    if isinstance(content, dict) and all(type(value) is int for value in content.values()):
        return _by_value(((value, name) for name, value in content.items()), path)
    raise DataError(f"{path}: found {shown(content)}, expected class names, or names by label")


def _by_value(pairs: Iterable[tuple[Any, Any]], path: Path) -> tuple[list[str], int]:
    found: dict[int, str] = {}
    for value, name in pairs:
        if not str(value).isdecimal() or not isinstance(name, str):
            raise DataError(f"{path}: found the label {shown(value)} of {shown(name)}, expected a number and a name")
        if int(value) in found:
            raise DataError(f"{path}: {found[int(value)]!r} and {name!r} have the label {value}")
        found[int(value)] = name
    labels = sorted(found)
    if not labels or labels != list(range(labels[0], labels[0] + len(labels))):
        raise DataError(f"{path}: its labels are {shown(labels)}, expected consecutive ones")
    return [found[label] for label in labels], labels[0]
