"""Sections of a configuration as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import one_of, read_options


@dataclass(frozen=True)
class Options:
    name: str
    sizes: tuple[int, ...] = (1, 2)
    extra: dict[str, int] = field(default_factory=dict)


def test_values_are_taken_and_lists_become_tuples():
    assert read_options(Options, {"name": "a"}, "part") == Options("a")
    read = read_options(Options, {"sizes": [3], "name": "b", "extra": {"x": 1}}, "part")
    assert read == Options("b", (3,), {"x": 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"name": "a", "size": 3},
            r"^part.size is not an option; expected one of name, sizes, extra; did you mean sizes\?$",
        ),
        ({"sizes": [3]}, r"^part.name is missing$"),
        ("a", r"^part='a'; expected options by name$"),
        (None, r"^part=None; expected options by name$"),
        ([("name", "a")], r"expected options by name$"),
        ({"name": "a", 3: 4}, r"^part.3 is not an option"),
    ],
)
def test_what_is_no_option_is_an_error(values, message):
    with pytest.raises(ConfigError, match=message):
        read_options(Options, values, "part")


def test_one_of_lists_the_valid_values():
    one_of("x", "a", ("a", "b"))
    one_of("x", "b", {"b": 1})
    for value in ("c", "", None, 3, ["a"]):
        with pytest.raises(ConfigError, match=r"is unknown; expected one of a, b$"):
            one_of("x", value, ("a", "b"))


@dataclass(frozen=True)
class _Typed:
    count: int = 1
    rate: float = 0.5
    on: bool = False
    name: str | None = None
    mix: dict[str, float] | None = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": "abc"}, "t.count='abc'; expected an integer"),
        ({"count": 1.5}, "t.count=1.5; expected an integer"),
        ({"count": True}, "t.count=True; expected an integer"),
        ({"rate": "fast"}, "t.rate='fast'; expected a number"),
        ({"on": "maybe"}, "t.on='maybe'; expected true or false"),
        ({"name": 3}, "t.name=3; expected text or null"),
    ],
)
def test_a_value_of_another_type_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        read_options(_Typed, values, "t")


def test_values_of_the_right_type_are_taken():
    values = {"count": 2, "rate": 1, "on": True, "name": None, "mix": {"a": 1.0}}
    assert read_options(_Typed, values, "t") == _Typed(**values)
