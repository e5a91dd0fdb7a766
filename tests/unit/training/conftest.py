"""A stream of hand-made batches, and runs on it."""

from __future__ import annotations

import itertools

import pytest
from fitted_runs import Run


@pytest.fixture(scope="module")
def stream(make_batch):
    """Four batches: two prompts on each of two kinds of picture."""
    left, right = (10, 10, 60, 60), (70, 40, 120, 110)
    return [
        make_batch([("car", [left]), ("sky", [])], seed=0),
        make_batch([("car", []), ("sky", [right])], seed=1),
        make_batch([("car", [left, right]), ("sky", [right])], seed=2),
        make_batch([("car", [right]), ("sky", [left])], seed=3),
    ]


@pytest.fixture
def start(another, stream, tmp_path):
    """A function that makes a run, on another stream where one is given."""
    numbers = itertools.count()
    return lambda batches=stream: Run(another(), batches, tmp_path / f"run{next(numbers)}")
