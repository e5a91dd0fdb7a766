"""Records on disk: whole or not there, and only of the very same evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation import record_store
from sam3_hyperet.evaluation.record_store import RecordStore

RECORD = {"a/scores": np.array([0.25, 1e-300]), "a/empty": np.zeros((0, 4), np.uint8), "b/count": np.array(3)}
FACTS = {"base": "f00", "limit": 3, "names": ["a", "b"], "fusion": None}


@pytest.fixture
def store(tmp_path):
    store = RecordStore(tmp_path / "records" / "base")
    assert store.prepare(FACTS) == ""
    return store


def files(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_a_record_comes_back_bit_by_bit(store):
    store.write(7, RECORD)
    found = store.read(7)
    assert found.keys() == RECORD.keys()
    for name, values in RECORD.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values)
    assert store.read(8) is None
    assert files(store) == ["000007.npz", "fingerprint.json"]


def test_long_facts_are_told_where_they_differ(store):
    names = [f"name {n}" for n in range(40)]
    store.prepare({**FACTS, "names": names})
    assert store.other_facts({**FACTS, "names": [*names, "b"]}) == ""  # there is no record
    store.write(0, RECORD)
    assert store.other_facts({**FACTS, "names": names}) == ""
    why = store.other_facts({**FACTS, "names": [*names, "b"]})
    assert why == "names was …'name 38', 'name 39'], now it is …'name 38', 'name 39', 'b']"


def test_records_that_are_removed_are_gone_on_from_by_nothing(store):
    store.write(3, RECORD)
    assert (store.count(), store.has(3), store.has(4)) == (1, True, False)
    store.remove()
    assert not store.folder.exists()
    assert store.other_facts({**FACTS, "base": "f01"}) == ""


def test_the_same_facts_go_on(store):
    store.write(0, RECORD)
    assert RecordStore(store.folder).prepare(dict(reversed(FACTS.items()))) == ""
    assert store.missing([0, 1, 2]) == ([1, 2], 0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"base": "f01"}, "base was f00, now it is f01"),
        ({"names": ["b", "a"]}, "names was ['a', 'b'], now it is ['b', 'a']"),
        ({"fusion": "fused"}, "fusion was None, now it is fused"),
        ({"new": 1}, "new was None, now it is 1"),
    ],
)
def test_other_facts_start_over_and_say_why(store, change, why):
    store.write(0, RECORD)
    store.write(1, RECORD)
    said = store.prepare({**FACTS, **change})
    assert said == f"{store.folder}: 2 records start over: {why}"
    assert files(store) == ["fingerprint.json"]
    assert store.prepare({**FACTS, **change}) == ""


def test_without_resuming_or_facts_all_starts_over(store):
    store.write(0, RECORD)
    assert store.prepare(FACTS, resume=False).endswith("1 records start over: resume=never")
    assert store.read(0) is None
    for content in ("{", "[]", None):
        store.write(0, RECORD)
        file = store.folder / "fingerprint.json"
        file.unlink() if content is None else file.write_text(content)
        assert "1 records start over" in store.prepare(FACTS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_a_damaged_record_is_not_there(tmp_path_factory, seed, cut):
    """One bit or the end of the file is wrong: the record is read as it was written, or not at all."""
    store = RecordStore(tmp_path_factory.mktemp("records"))
    rng = np.random.default_rng(seed)
    record = {"values": rng.integers(0, 255, 200, dtype=np.uint8), "more": rng.random(20)}
    store.write(4, record)
    path = store.folder / "000004.npz"
    content = bytearray(path.read_bytes())
    if cut:
        del content[rng.integers(len(content)) :]
    else:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)
    found = store.read(4)
    if found is not None and found.keys() == record.keys():
        assert all(np.array_equal(found[name], values) for name, values in record.items())
    if cut:
        assert found is None
        assert store.missing([4, 5]) == ([4, 5], 1)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(record_store, "_LATE_SECONDS", 0.0)
            with pytest.raises(DataError, match="2 of 2 records are missing, the first that of image 4"):
                store.read_all([4, 5])


@pytest.mark.parametrize("late", [30.0, 300.0])
def test_a_record_of_another_machine_may_be_seen_late(store, monkeypatch, late):
    """A file system between machines may remember for some time that it was not there."""
    clock, read = [0.0], store.read
    monkeypatch.setattr(record_store.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(record_store.time, "sleep", lambda seconds: clock.append(clock.pop() + seconds))
    for position in (1, 2):
        store.write(position, RECORD)
    store.read = lambda position: None if position == 1 and clock[0] < late else read(position)
    if late == 30.0:
        assert len(store.read_all([1, 2])) == 2
        assert clock[0] == late
    else:
        with pytest.raises(DataError, match="1 of 2 records are missing, the first that of image 1"):
            store.read_all([1, 2])
        assert clock[0] == 60.0


@pytest.mark.parametrize(("field", "value"), [(8, 1), (10, 77)], ids=["encrypted", "unknown compression"])
def test_a_damaged_header_is_no_record(store, field, value):
    store.write(1, RECORD)
    path = store.folder / "000001.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + field] = value
    path.write_bytes(content)
    assert store.read(1) is None


def test_what_a_killed_process_left_is_swept(store):
    (store.folder / ".000003.npz.host-123-0a1b2c3d.tmp").write_bytes(b"half")
    store.write(1, RECORD)
    store.prepare(FACTS)
    assert files(store) == ["000001.npz", "fingerprint.json"]
