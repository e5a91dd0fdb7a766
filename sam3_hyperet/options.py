"""Sections of a configuration as dataclasses: each option is declared once, with its default, type and meaning.

A key that was renamed is listed in the class's `ALIASES`, old name to new; it still works, with one line of warning.
Of two options in its `ALTERNATIVES`, the one that a command line gives replaces the other one of a file.
A type may be annotated with a `Condition` on its values, or with the tuple of them.
"""

import difflib
import functools
import inspect
import logging
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sam3_hyperet.errors import ConfigError

T = TypeVar("T")
_PLAIN = {int: "an integer", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


@dataclass(frozen=True)
class Condition:
    """What holds for an option's values, and how a message says so."""

    holds: Callable[[Any], bool]
    expected: str


def number(holds: Callable[[Any], bool], expected: str) -> Condition:
    """A condition on a number: not on a bool."""
    return Condition(lambda value: isinstance(value, Real) and not isinstance(value, bool) and holds(value), expected)


PositiveInt = Annotated[int, number(lambda value: isinstance(value, Integral) and value >= 1, "an integer from 1")]
NonNegativeInt = Annotated[int, number(lambda value: isinstance(value, Integral) and value >= 0, "an integer from 0")]
NonNegativeFloat = Annotated[float, number(lambda value: 0 <= value < math.inf, "a number from 0")]
FiniteFloat = Annotated[float, number(math.isfinite, "a finite number")]
PositiveFloat = Annotated[float, number(lambda value: 0 < value < math.inf, "a positive number")]
Switch = Annotated[bool, Condition(lambda value: type(value) is bool, "true or false")]
Probability = Annotated[float, number(lambda value: 0 <= value <= 1, "a probability")]


def read_options(cls: type[T], values: Mapping[str, object], section: str) -> T:
    """Make the dataclass `cls` of plain values by name, or by an old name.

    Lists become tuples, and a text becomes one entry where a list of texts is expected.

    Raises ConfigError: no mapping, a key that is not a field, a value of another type than its field's, or a field
    without default that is missing.
    """
    values = current_names(cls, values, section)
    for field in fields(cls):  # type: ignore[arg-type]
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{section}.{field.name} is missing")
    hints = _types(cls)
    return cls(**{key: _converted(value, hints[key], f"{section}.{key}") for key, value in values.items()})


def convert_fields(options: Any) -> None:
    """Check and convert the values of a frozen dataclass as `read_options` does, for one that is also made directly."""
    hints = _types(type(options))
    for field in fields(options):
        value = _converted(getattr(options, field.name), hints[field.name], field.name)
        object.__setattr__(options, field.name, value)


def check_fields(options: object, section: str = "") -> None:
    """Raise a ConfigError for the first field whose value its type's annotation excludes."""
    for name, hint in _types(type(options), with_conditions=True).items():
        check_value(f"{section}.{name}" if section else name, getattr(options, name), hint)


def check_value(name: str, value: object, hint: Any) -> None:
    """Raise a ConfigError if a type's annotation excludes a value."""
    alternatives = _alternatives(hint)
    is_optional = NoneType in alternatives
    if value is None and is_optional:
        return
    for condition in (one for alternative in alternatives for one in getattr(alternative, "__metadata__", ())):
        if isinstance(condition, tuple):
            one_of(name, value, condition)
        elif not condition.holds(value):
            raise ConfigError(
                f"{name}={_shown(value)}; expected {condition.expected}{', or null' if is_optional else ''}"
            )


def current_names(cls: type, values: Mapping[str, object], section: str) -> dict[str, object]:
    """The values by the present names of their options. Raises ConfigError for a key that is no option."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{section}={_shown(values)}; expected options by name")
    return {current_name(cls, key, section): value for key, value in values.items()}


def current_name(cls: type, key: str, section: str) -> str:
    """The present name of an option. Raises ConfigError for what is no option."""
    names = [field.name for field in fields(cls)]
    aliases: Mapping[str, str] = getattr(cls, "ALIASES", {})
    if key in aliases:
        warn_once(f"{section}.{key} is now called {section}.{aliases[key]}; the old name will go")
        return aliases[key]
    if key not in names:
        raise ConfigError(f"{section}.{key} is not an option; expected one of {', '.join(names)}{close(key, names)}")
    return key


def defaults(cls: type) -> dict[str, object]:
    """Every option's default as plain values; "???" where one has to be given."""
    found: dict[str, object] = {}
    for field in fields(cls):
        value = field.default if field.default_factory is MISSING else field.default_factory()
        value = "???" if value is MISSING else value
        found[field.name] = list(value) if isinstance(value, tuple) else value
    return found


def meanings(cls: type) -> dict[str, str]:
    """What the docstring of a dataclass and of its bases says of each option, under "Attributes:"."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        listed = inspect.cleandoc(vars(one).get("__doc__") or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        for names, text in re.findall(r"^    (\w[\w, ]*): ((?:.|\n(?!    \w))*)", listed, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def one_of(name: str, value: object, valid: Mapping[str, object] | tuple[str, ...]) -> None:
    """Raise a ConfigError that lists the valid values unless `value` is one of them."""
    if not isinstance(value, str) or value not in valid:
        raise ConfigError(f"{name}={_shown(value)} is unknown; expected one of {', '.join(valid)}{close(value, valid)}")


def close(found: object, valid: Iterable[str]) -> str:
    """The end of a message about an unknown name: the valid name that is nearest to it, if one is near."""
    near = difflib.get_close_matches(str(found), list(valid), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def admits(cls: type, name: str, kind: type) -> bool:
    """Whether an option's type is `kind`, a generic of it, or a union with it."""
    return any(kind in (one, get_origin(one)) for one in _alternatives(_types(cls)[name]))


def _types(cls: Any, *, with_conditions: bool = False) -> Mapping[str, Any]:
    """The type of each option; to evaluate annotations anew would take half the time of checking values."""
    return _hints(cls, with_conditions)


@functools.cache
def _hints(cls: type, with_conditions: bool) -> Mapping[str, Any]:
    return get_type_hints(cls, include_extras=with_conditions)


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, but only the first time."""
    logging.getLogger(__name__).warning(message)


def _shown(value: object) -> str:
    """A value as a message quotes it."""
    try:
        text = repr(value)
    except RecursionError:
        return "nested too deeply"
    return text if len(text) <= 200 else f"{text[:197]}…"


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)


def _converted(value: object, hint: Any, name: str) -> object:
    if isinstance(value, str) and not _fits(value, hint) and _fits((value,), hint):
        return (value,)
    if not _fits(value, hint):
        raise ConfigError(f"{name}={_shown(value)}; expected {_meaning(hint)}")
    return tuple(value) if isinstance(value, list) else value


def _fits(value: object, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    return (
        hint not in _PLAIN
        or type(value) is hint
        or (hint is float and type(value) is int and abs(value) <= sys.float_info.max)
    )


def _meaning(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (UnionType, Union):
        return " or ".join(map(_meaning, inner))
    if origin is tuple:
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a list of {count}{_meaning(inner[0]).removeprefix('an ').removeprefix('a ')}s".replace("texts", "text")
    return _PLAIN.get(hint, "a mapping, {name: value}")
