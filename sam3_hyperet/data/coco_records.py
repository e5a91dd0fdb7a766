"""Values of a COCO file as labelling tools spell them: ids as text, flags as words, outlines of any nesting."""

import ast
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, count
from types import MappingProxyType
from typing import Any, TypeVar

from sam3_hyperet.data.annotations import field, shown, whole_number
from sam3_hyperet.errors import DataError
from sam3_hyperet.wording import count_of

MAX_ID = 2**63 - 1
T = TypeVar("T")
Id = int | str
Foreign = Mapping[Id, int]
"""Numbers by ids that are no numbers of COCO's."""
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "": 0}
_AS_NUMBER = "id that is no whole number, read as one"
_ANOTHER_BOX = "box that is not [x, y, width, height] in the image"


def as_whole_number(value: object) -> int | None:
    """An integer, 1.0 or "1" as an integer; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.strip().isdigit():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def is_foreign(value: object, high: int = MAX_ID) -> bool:
    """Whether an id is no whole number as COCO has them, but tells records apart: a hash, a number out of bounds."""
    number = as_whole_number(value)
    return isinstance(value, str) and bool(value.strip()) if number is None else not 0 <= number <= high


def numbered(values: Sequence[object], high: int = MAX_ID) -> dict[Id, int]:
    """Numbers from 1 that are not in use, for the foreign ones among the ids of all records of a kind."""
    in_use = {number for value in values if (number := as_whole_number(value)) is not None}
    foreign = dict.fromkeys(key for value in values if is_foreign(value, high) and (key := id_key(value)) is not None)
    return dict(zip(foreign, (number for number in count(1) if number not in in_use), strict=False))


def foreign_reason(kind: str) -> str:
    """How the foreign ids of a kind are counted."""
    return f"{kind} id that is a text or out of bounds, numbered"


def read_id(
    value: object, where: str, adjusted: Counter[str], high: int = MAX_ID, foreign: Foreign = MappingProxyType({})
) -> int:
    """`value` as an id from 0 to `high`, or the number of a foreign one; counts those that are text or floats.

    Raises DataError.
    """
    number = as_whole_number(value)
    if (key := id_key(value)) is not None and key in foreign:
        return foreign[key]
    if number is not None and type(value) is not int:
        adjusted[_AS_NUMBER] += 1
    return whole_number(value if number is None else number, where, 0, high)


def reference(record: Mapping[str, Any], key: str, known: Mapping[Id, T], where: str, adjusted: Counter[str]) -> T:
    """What is `known` of the id that a record refers to by `key`. Raises DataError."""
    value = field(record, key, where)
    if type(value) is int and value in known:
        return known[value]
    own = id_key(value)
    if own is None or own not in known:
        what = "the categories" if key == "category_id" else f"the {count_of(len(known), 'image')}"
        raise DataError(f"{where}: its {key} {shown(value)} is not among {what}")
    if type(own) is not type(value):
        adjusted[_AS_NUMBER] += 1
    return known[own]


def id_key(value: object) -> Id | None:
    """An id as a number, or as the text that is none; None for what is no id."""
    number = as_whole_number(value)
    return value if number is None and isinstance(value, str) else number


def read_flag(record: Mapping[str, Any], key: str, where: str, adjusted: Counter[str]) -> int:
    """0 or 1; counts those that are written otherwise. Raises DataError."""
    value = record.get(key, 0)
    if value in (0, 1):
        return int(value)
    flag = _FLAGS.get(value.strip().lower()) if isinstance(value, str) else None
    if value is not None and flag is None:
        raise DataError(f"{where}: its {key} is {shown(value)}, expected 0 or 1")
    adjusted[f"{key} that is no number, read as one"] += 1
    return flag or 0


def read_side(record: Mapping[str, Any], key: str, where: str, adjusted: Counter[str], high: int) -> int:
    """A side in pixels, 0 where the file does not say. Raises DataError."""
    value = record.get(key)
    number = as_whole_number(value)
    if value is None or number == 0:
        return 0
    if number is not None and type(value) is not int:
        adjusted["image size that is no whole number, read as one"] += 1
    return whole_number(value if number is None else number, f"{where}: its {key}", 1, high)


def read_outline(outline: object, where: str, adjusted: Counter[str]) -> list[Any] | dict[str, Any]:
    """An outline as polygons [x, y, x, y, …], or as run lengths; empty where there is none. Raises DataError."""
    if isinstance(outline, list):
        if all(type(part) is list and len(part) >= 6 and type(part[0]) is not list for part in outline):
            return outline
        if len(outline) == 1 and isinstance(outline[0], dict):
            adjusted["outline in a list of its own, taken out of it"] += 1
            return read_outline(outline[0], where, adjusted)
        if (polygons := _polygons(outline)) is not None:
            if polygons != outline:
                adjusted["outline of another nesting, read as polygons"] += 1
            return polygons
    elif isinstance(outline, dict):
        counts = outline.get("counts")
        if isinstance(counts, str) and counts.startswith(("b'", 'b"')):  # bytes that were written by str()
            adjusted["run lengths written as Python bytes, read as text"] += 1
            return {**outline, "counts": _text_of_bytes(counts, where)}
        return outline
    elif outline is None:
        return []
    raise DataError(f"{where}: its segmentation is {shown(outline)}, expected polygons or an RLE")


def _polygons(outline: list[Any]) -> list[list[Any]] | None:
    """Polygons of [x, y, …], of [[x, y], …] or of lists of these; None if there is anything else."""
    if any(isinstance(part, dict | str) for part in outline):
        return None
    if not any(isinstance(part, list) for part in outline):
        return [outline]
    if not all(isinstance(part, list) for part in outline):
        return None
    if all(len(part) == 2 and not isinstance(part[0], list | dict) for part in outline):
        return [list(chain.from_iterable(outline))]
    found = [_polygons(part) for part in outline]
    return None if None in found else list(chain.from_iterable(found))  # type: ignore[arg-type]


def _text_of_bytes(counts: str, where: str) -> str:
    try:
        return ast.literal_eval(counts).decode("ascii")  # type: ignore[no-any-return]
    except (ValueError, SyntaxError, AttributeError, MemoryError, RecursionError):
        raise DataError(f"{where}: its RLE has the counts {shown(counts)}, expected text") from None


def read_box(record: Mapping[str, Any], height: int, width: int) -> tuple[tuple[float, ...] | None, str]:
    """[x, y, width, height] of the file, or None and what is wrong with it, "" where it has none."""
    box = record.get("bbox", ...)
    if box is ...:
        return None, ""
    if box is None or box == [] or box == [0, 0, 0, 0]:
        return None, "box without area"
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        return None, _ANOTHER_BOX
    x, y, w, h = box
    if not (abs(x) <= width and abs(y) <= height and 0 <= w <= 2 * width and 0 <= h <= 2 * height):
        return None, _ANOTHER_BOX
    return ((x, y, w, h), "") if w > 0 and h > 0 else (None, "box without area")
