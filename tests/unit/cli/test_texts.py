"""Names and paths on the command line are texts, also where they look like numbers."""

from __future__ import annotations

import pytest

from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.composition import plain


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("images=2024_10_05", "2024_10_05"),
        ("images=2024.10", "2024.10"),
        ("images=[2024_10_05,b c,'1e3']", ["2024_10_05", "b c", "1e3"]),
        ("images=[07,true]", ["07", "true"]),
        ("annotations=1e3", "1e3"),
        ("prompts=7_11", "7_11"),
        ("prompts=[7_11,car]", ["7_11", "car"]),
        ("exemplars=null", None),
    ],
)
def test_names_and_paths_are_texts_also_where_they_look_like_numbers(argument, value):
    found = parse_command("predict", ["images=x", argument])[1]
    assert plain(found)[argument.partition("=")[0]] == value


def test_what_a_study_has_are_numbers():
    assert plain(parse_command("ablate", ["plan=evidence", "images=[5,0]"])[1])["images"] == [5, 0]
    assert plain(parse_command("benchmark", ["cascade", "images=3"])[1])["images"] == 3
