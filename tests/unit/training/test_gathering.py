"""Results of all processes: each gets all of them, and the error of one ends them all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from sam3_hyperet.errors import DataError
from sam3_hyperet.training.gathering import from_all


@pytest.fixture
def process(monkeypatch):
    """A function from a rank and what the other one of two processes has to what `from_all` makes of an action."""

    def run(rank, theirs, action):
        def gather(everyone, mine):
            everyone[rank], everyone[1 - rank] = mine, theirs

        monkeypatch.setattr("torch.distributed.all_gather_object", gather)
        return from_all(SimpleNamespace(world_size=2, is_global_zero=rank == 0), action)

    return run


def test_each_process_has_the_results_of_all(process):
    assert process(0, "b", lambda: "a") == process(1, "a", lambda: "b") == ["a", "b"]
    assert from_all(SimpleNamespace(world_size=1), lambda: "a") == ["a"]


def test_an_error_of_one_process_ends_all_and_is_said_once(process):
    def broken():
        raise DataError("x.png is broken")

    with pytest.raises(DataError, match="broken"):
        process(0, DataError("x.png is broken"), lambda: 1)
    for theirs, action in ((1, broken), (DataError("x.png is broken"), lambda: 1)):
        with pytest.raises(SystemExit) as left:
            process(1, theirs, action)
        assert left.value.code == 1
