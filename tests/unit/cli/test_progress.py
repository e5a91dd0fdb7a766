"""Progress in a job's log: few lines, the first soon, and none of what is quick."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from sam3_hyperet.cli.progress import counted, progress


@pytest.fixture
def lines():
    """A function that shows images of so many seconds each and returns the lines of the log."""

    def run(total: int, seconds: float) -> list[str]:
        console, ticks = Console(file=io.StringIO()), itertools.count()
        with counted(console, "images", total, lambda: 1000 + seconds * next(ticks)) as on_image:
            for _ in range(total):
                on_image()
        return console.file.getvalue().splitlines()

    return run


def test_lines_are_paced_by_time_and_say_what_is_left(lines):
    found = lines(1500, 0.1)
    assert found[0] == "50 of 1,500 images, 10 a second, 0:02:25 left"
    assert found[-1] == "1,500 of 1,500 images, 10 a second, all done"
    assert len(found) == 4  # after 5, 65, 125 and 150 seconds
    assert lines(3, 40.0)[0] == "1 of 3 images, 40 s each, 0:01:20 left"


def test_what_is_quick_says_nothing(lines):
    assert lines(4, 1.0) == []
    assert lines(0, 1.0) == []


def test_a_terminal_has_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with progress(console, "images") as show:
        show(1, 2)
    assert "images" in console.file.getvalue()
    assert " left" not in console.file.getvalue()
