"""A short run of `tests/support/fuzz.py`: whatever a file is, a reader ends with a result or one clear line."""

from __future__ import annotations

import mmap

from fuzz import main, run
from fuzz_readers import READERS

from sam3_hyperet.errors import UserError

MUTATIONS = 300


def test_every_reader_ends_well(tmp_path):
    outcomes = run(MUTATIONS, 11, list(READERS), tmp_path)
    assert [finding for one in outcomes.values() for finding in one.findings] == []
    assert sum(one.mutations for one in outcomes.values()) == MUTATIONS
    assert min(sum(getattr(one, kind) for one in outcomes.values()) for kind in ("read", "refused")) > MUTATIONS / 10


def test_what_does_not_end_well_is_found_and_can_be_repeated(monkeypatch, tmp_path, capsys):
    """A reader that never ends, one that takes much memory, one with a traceback, and one whose message has lines."""

    class Lines(UserError):
        def __str__(self):
            return "one\ntwo"

    def read(root):
        number = counted.pop()
        if number == 0:
            while True:
                pass
        if number == 1:
            with mmap.mmap(-1, 2**27) as memory:  # malloc would reuse what other tests have freed
                for page in range(0, len(memory), mmap.PAGESIZE):
                    memory[page] = 1
            return
        raise {2: KeyError("lost"), 3: Lines()}[number]

    monkeypatch.setattr("fuzz.SECONDS", 1)
    monkeypatch.setattr("fuzz.BYTES", 2**26)
    monkeypatch.setattr("fuzz._read_unspoilt", lambda *args: None)
    monkeypatch.setitem(vars(READERS["metrics.jsonl"]), "read", read)
    counted = [3, 2, 1, 0]
    findings = run(4, 0, ["metrics.jsonl"], tmp_path)["metrics.jsonl"].findings
    for number, said in enumerate(("TooLongError", "took ", "KeyError: ", "a message of 7 characters and 2 lines")):
        assert findings[number].startswith(f'--reader "metrics.jsonl" --only {number}: {said}')
    counted = [2]
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--reader", "metrics.jsonl", "--only", "2"])
    assert main() == 1
    assert "1 mutations, 1 findings" in capsys.readouterr().out
