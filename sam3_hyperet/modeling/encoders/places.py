"""The adjusted modules of an encoder, kept on the model and listed in its adapter file."""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.reading import parse_json

if TYPE_CHECKING:
    from torch import nn

QV_PARTS, OUTPUT = ("qkv", "q", "v"), "output"


class Place(NamedTuple):
    """An adjusted module by name.

    part: "qkv", "q" or "v" for the rows of its weight; "output" for what it returns.
    block: index of its block, or of the module among those adjusted.
    channels, channel_dim: of the rows or of the output.
    """

    module: str
    part: str
    block: int
    channels: int
    channel_dim: int = -1


def places_of(model: "nn.Module") -> tuple[Place, ...]:
    """The adjusted modules of an encoder; none for SAM 3's model, whose configuration names sites."""
    places: tuple[Place, ...] = getattr(model, "hyperet_places", ())
    return places


def places_text(places: Iterable[Place]) -> str:
    """Places as a line of JSON."""
    return json.dumps(list(map(list, places)))


def read_places(text: str) -> tuple[Place, ...]:
    """The inverse of `places_text`. Raises ConfigError for what is no list of places."""
    kinds, listed = (str, str, int, int, int), parse_json(text)
    places = []
    for row in listed if isinstance(listed, list) else [None]:
        if not isinstance(row, list) or tuple(map(type, row)) != kinds or row[1] not in (*QV_PARTS, OUTPUT):
            raise ConfigError(f"found {row!r:.60}; expected [name, part, block, channels, axis]")
        module, part, block, channels, channel_dim = row
        places.append(Place(module, part, block, channels, channel_dim))
    return tuple(places)


def stack(name: str) -> str:
    """A module's name with a star for each number: the same for the same module of every block."""
    return re.sub(r"\d+", "*", name)


def stems(places: Iterable[Place]) -> tuple[str, ...]:
    """Prefixes of the weights by which an encoder is known: those of the stacks that hold adjusted modules.

    They end before the first number, or before the module's own name where there is none. The embeddings in front and
    the head behind are no part of a stack: the former follow the resolution, the latter the task.
    """
    found = set()
    for place in places:
        parts = place.module.split(".")
        end = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts) - 1)
        found.add("".join(f"{part}." for part in parts[:end]))
    return tuple(sorted(found))


def stems_before_digits(places: Iterable[Place]) -> tuple[str, ...]:
    """As `stems`, in files of earlier versions: of whole parts of a name before the first with a digit in it."""
    names = (re.match(r"(?:[^.\d]+\.)*", place.module + ".") for place in places)
    return tuple(sorted({found.group() for found in names if found}))


def described(names: Iterable[str]) -> str:
    """Modules as a message lists them: each stack with the number of its modules."""
    counts: dict[str, int] = {}
    for name in names:
        counts[stack(name)] = counts.get(stack(name), 0) + 1
    shown = [f"{name} ({count})" for name, count in counts.items()]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
