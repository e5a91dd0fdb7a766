"""Sections of a configuration as dataclasses: a key that is not a field is an error that lists the valid ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import TypeVar, get_args, get_type_hints

from sam3_hyperet.errors import ConfigError

T = TypeVar("T")
PRECISIONS = ("32-true", "bf16-mixed")
_PLAIN = {int: "an integer", float: "a number", bool: "true or false", str: "text", NoneType: "null"}


def read_options(cls: type[T], values: Mapping[str, object], section: str) -> T:
    """Make the dataclass `cls` of plain values.

    Args:
        cls: a dataclass; lists become tuples where a field's default is a tuple.
        values: its fields by name.
        section: the name of this part of the configuration, for messages.

    Raises:
        ConfigError: no mapping, a key that is not a field, a value of another type than a plain field's, or a field
            without default that is missing.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{section}={values!r}; expected options by name")
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"{section}.{key} is not an option; expected one of {', '.join(known)}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{section}.{name} is missing")
    hints = get_type_hints(cls)
    for key, value in values.items():
        types = get_args(hints[key]) if isinstance(hints[key], UnionType) else (hints[key],)
        fits = type(value) in types or (float in types and type(value) is int)
        if not fits and all(one in _PLAIN for one in types):
            expected = " or ".join(_PLAIN[one] for one in types)
            raise ConfigError(f"{section}.{key}={value!r}; expected {expected}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def one_of(name: str, value: object, valid: Mapping[str, object] | tuple[str, ...]) -> None:
    """Raise a ConfigError that lists the valid values unless `value` is one of them."""
    if not isinstance(value, str) or value not in valid:
        raise ConfigError(f"{name}={value!r} is unknown; expected one of {', '.join(valid)}")
