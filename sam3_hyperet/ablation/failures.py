"""Why a base, a trial or a run failed: a file in its folder, which is there until it is made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path

from sam3_hyperet.errors import DataError
from sam3_hyperet.files import Manifest, write_json
from sam3_hyperet.reading import parse_json, read_text

FAILED = "failed.json"


@dataclass(frozen=True)
class Failure:
    """The reason in a line, and when it was, in UTC."""

    reason: str
    date: str


@contextmanager
def recorded(folder: Path, reason_of: Callable[[Exception], str]) -> Iterator[None]:
    """Context that makes what a folder is of: an error leaves its reason there, and success removes an earlier one."""
    Manifest(folder).claim(FAILED)
    try:
        yield
    except Exception as error:
        date = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        write_json(folder / FAILED, asdict(Failure(reason_of(error), date)))
        raise
    (folder / FAILED).unlink(missing_ok=True)


def failure_in(folder: Path) -> Failure | None:
    """The failure that a folder tells of, if any. Raises DataError for a file that is none."""
    file = folder / FAILED
    if not file.is_file():
        return None
    try:
        text = read_text(file)
    except DataError:
        if file.is_file():
            raise
        return None  # another process has just made it
    try:
        found = parse_json(text)
        return Failure(str(found["reason"]), str(found["date"]))
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not why a run failed ({error}); expected reason and date; remove it") from None
