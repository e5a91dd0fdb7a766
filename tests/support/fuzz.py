"""Spoil valid files, and see whether every reader ends with a result or one clear line, in bounded time and memory.

    python tests/support/fuzz.py --mutations 10000 --seed 0
    python tests/support/fuzz.py --seed 0 --reader "run" --only 17     # one mutation again

Exits with status 1 where a reader raised anything but a UserError, took too long or too much memory.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

from fuzz_mutations import mutate, restore
from fuzz_readers import READERS

from sam3_hyperet.errors import UserError

SECONDS, BYTES = 10, 2**30
_ADDRESSES = 2**33  # more than there are now: what a file asks for beyond it is a MemoryError
_LONGEST = 2_000  # characters of a message


class TooLongError(BaseException):
    """A reader that has not ended: no `except Exception` may take it."""


@dataclass
class Outcome:
    """What came of the mutations of one reader."""

    read: int = 0
    refused: int = 0
    findings: list[str] = field(default_factory=list)
    seconds: float = 0
    slowest: float = 0
    peak: int = 0
    messages: list[str] = field(default_factory=list)

    @property
    def mutations(self) -> int:
        return self.read + self.refused + len(self.findings)


def run(mutations: int, seed: int, names: Sequence[str], folder: Path, only: int | None = None) -> dict[str, Outcome]:
    """Spread mutations evenly over some readers; with `only`, that number alone of each."""
    outcomes = {name: Outcome() for name in names}
    for place, name in enumerate(names):
        reader, root = READERS[name], folder / str(place)
        root.mkdir(parents=True)
        files = reader.write(root)
        contents = {path: path.read_bytes() for path in files}
        _read_unspoilt(name, root, contents)
        for number in [only] if only is not None else range(len(range(place, mutations, len(names)))):
            rng = random.Random(f"{seed} {name} {number}")
            path = rng.choice(files)
            try:
                mutate(path, reader.kind or path.suffix[1:].lower(), rng)
                reader.seal(path)
                _read(outcomes[name], name, number, root)
            finally:
                restore(path, contents[path])
    return outcomes


def _read_unspoilt(name: str, root: Path, contents: dict[Path, bytes]) -> None:
    """Read the valid files, which must do, and put them back as they are spoiled, without a seal."""
    for path in contents:
        READERS[name].seal(path)
    with _limited():
        READERS[name].read(root)
    for path, content in contents.items():
        restore(path, content)


def _read(outcome: Outcome, name: str, number: int, root: Path) -> None:
    """Read once, and add what came of it."""
    before, start, found = _peak(reset=True), time.monotonic(), ""
    try:
        with _limited():
            READERS[name].read(root)
        outcome.read += 1
    except UserError as error:
        message = str(error)
        if "\n" in message or len(message) > _LONGEST:
            found = f"a message of {len(message)} characters and {message.count(chr(10)) + 1} lines: {message[:200]!r}"
        else:
            outcome.refused += 1
            outcome.messages.append(f"{name} {number}: {message}")
    except (Exception, TooLongError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = [one for one in traceback.extract_tb(error.__traceback__) if "sam3_hyperet/" in one.filename]
        inside = f", from {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
        found = f"{type(error).__name__}: {str(error)[:200]!r} at {Path(frame.filename).name}:{frame.lineno}{inside}"
    seconds, taken = time.monotonic() - start, _peak() - before
    outcome.seconds, outcome.slowest = outcome.seconds + seconds, max(outcome.slowest, seconds)
    outcome.peak = max(outcome.peak, taken)
    if not found and taken > BYTES:
        found = f"took {taken / 2**20:,.0f} MiB"
    if found:
        outcome.findings.append(f'--reader "{name}" --only {number}: {found}')


@contextmanager
def _limited() -> Iterator[None]:
    """Bounds of time and memory on what runs inside."""

    def stop(*_: object) -> None:
        raise TooLongError(f"not ended after {SECONDS} s")

    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (addresses + _ADDRESSES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)


def _peak(reset: bool = False) -> int:
    """Bytes of memory that this process had at most since they were last reset; now, where they are."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", choices=READERS)
    parser.add_argument("--only", type=int)
    parser.add_argument("--messages", action="store_true", help="print what is refused, and why")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(options.mutations, options.seed, options.reader or list(READERS), Path(folder), options.only)
    print(f"{'reader':<32}{'mutations':>10}{'read':>8}{'refused':>9}{'findings':>9}{'slowest s':>10}{'peak MiB':>9}")
    for name, one in outcomes.items():
        counts = f"{one.mutations:>10,}{one.read:>8,}{one.refused:>9,}{len(one.findings):>9,}"
        print(f"{name:<32}{counts}{one.slowest:>10.2f}{one.peak / 2**20:>9,.0f}")
    if options.messages:
        print("\n".join(message for one in outcomes.values() for message in one.messages))
    findings = [finding for one in outcomes.values() for finding in one.findings]
    print(f"{sum(one.mutations for one in outcomes.values()):,} mutations, {len(findings)} findings")
    print("\n".join(findings))
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
