"""Options as arguments: what was written is read back."""

from __future__ import annotations

import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.cli.composition import _value
from sam3_hyperet.override import override

TEXTS = st.one_of(st.sampled_from(["2017", "1e5", "True", "null", "", "a b", "c\\", 'd\\"e', "x/y.json"]), st.text())
KEYS = st.sampled_from(["train", "tv/monitor", "potted plant", "a:b, c", "x=(y)"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXTS),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(KEYS, inner)),
    max_leaves=6,
)
PARSER = OverridesParser.create()


@settings(max_examples=60)
@given(VALUES)
def test_a_value_is_read_back(value):
    (argument,) = shlex.split(override("data.splits", value))
    found = PARSER.parse_override(argument)
    assert (found.key_or_group, found.value()) == ("data.splits", value)


def test_a_plain_value_is_not_quoted():
    assert override("data.splits", {"train": ["photos", "a.json"]}) == "'data.splits={train: [photos, a.json]}'"
    assert override("data.format", "coco") == "data.format=coco"


@pytest.mark.parametrize("key", ["Grün, hell", "tür", "`x`", "1e-3", "2017", " a", "tab\t", "it's"])
def test_a_key_that_hydra_cannot_read_is_read_back(key):
    value = {"train": {key: ["Grün, hell", "0x1F", None, 0.5]}}
    (argument,) = shlex.split(override("data.splits", value))
    assert _value("data.splits", argument.partition("=")[2], expects_text=False) == value
