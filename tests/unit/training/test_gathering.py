"""Results of all processes: each gets all of them, and the error of one ends them all."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest

from sam3_hyperet.errors import DataError
from sam3_hyperet.training.gathering import Stopped, from_all, from_first


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


def test_what_a_signal_has_stopped_in_one_process_is_stopped_in_all(process):
    def stopped():
        raise Stopped

    for rank in (0, 1):
        for theirs, action in ((1, stopped), (Stopped(), lambda: 1)):
            with pytest.raises(Stopped):
                process(rank, theirs, action)


def test_an_error_of_one_process_ends_all_and_is_said_once(process):
    def broken():
        raise DataError("x.png is broken")

    with pytest.raises(DataError, match="broken"):
        process(0, DataError("x.png is broken"), lambda: 1)
    for theirs, action in ((1, broken), (DataError("x.png is broken"), lambda: 1)):
        with pytest.raises(SystemExit) as left:
            process(1, theirs, action)
        assert left.value.code == 1


class Process:
    """What `from_first` needs of Fabric; it notes what the process does. `firsts` is what the first one sends."""

    def __init__(self, rank, firsts=None):
        self.is_global_zero, self.firsts, self.did = rank == 0, firsts, []

    @contextlib.contextmanager
    def rank_zero_first(self):
        self.did.append("waits")
        yield

    def broadcast(self, value):
        self.did.append("broadcasts")
        return value if self.is_global_zero else self.firsts

    def act(self):
        self.did.append("acts")
        return 7


def test_what_the_first_process_does_may_take_longer_than_a_broadcast_waits():
    first, second = Process(0), Process(1, firsts=7)
    assert [from_first(one, one.act) for one in (first, second)] == [7, 7]
    assert first.did == ["acts", "waits", "broadcasts"]
    assert second.did == ["waits", "broadcasts"]


def test_an_error_of_the_first_process_ends_the_others_without_a_word():
    def broken():
        raise DataError("x.png is broken")

    first = Process(0)
    with pytest.raises(DataError, match="broken"):
        from_first(first, broken)
    assert first.did == ["waits", "broadcasts"]  # the others learn of it
    with pytest.raises(SystemExit) as left:
        from_first(Process(1, firsts=DataError("x.png is broken")), broken)
    assert left.value.code == 1
