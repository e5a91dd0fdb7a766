"""The row of a check, and checks in order: one whose prerequisite failed is skipped."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from sam3_hyperet.errors import UserError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "status_alloc_failed")
_LESS_MEMORY = (
    "train.prompts_at_once=1, train.checkpoint_activations=true, train.batch_size=1 or train.precision=bf16-mixed"
)

Status = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One row: what a check found and, unless all is well, what was expected and what to do."""

    check: str
    status: Status
    found: str
    expected: str = ""
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """The row of a check that has nothing to say against the run."""
    return Finding(check, "ok", found)


def warning(check: str, found: str, expected: str = "", remedy: str = "") -> Finding:
    """The row of a check that found something to know of; the run can go on."""
    return Finding(check, "warning", found, expected, remedy)


def failed(check: str, found: str, expected: str = "", remedy: str = "") -> Finding:
    """The row of a check that found what will end the run."""
    return Finding(check, "failed", found, expected, remedy)


def of_error(check: str, error: Exception) -> Finding:
    """The row of a check that ended in an error; what its message expects is the expectation."""
    message = " ".join(str(error).split()) or type(error).__name__
    if any(words in message.lower() for words in _OUT_OF_MEMORY):
        return failed(check, message[:200], "enough memory", _LESS_MEMORY)
    if not isinstance(error, UserError | OSError):
        message = f"{type(error).__name__}: {message}"
    found, _, expected = message.partition("; expected ")
    return failed(check, found, *expected.split("; ", 1) if expected else ("",))


class Examination:
    """Checks in order.

    A check is a function that returns its rows. An error that it raises is a failed row: of the user's, or of PyTorch,
    such as one of memory.

    Attributes:
        passed: names of the checks without a failed row.
    """

    def __init__(self) -> None:
        self.passed: set[str] = set()

    def check(self, name: str, rows: Callable[[], Iterable[Finding]], *needs: str) -> Iterator[Finding]:
        """The rows of a check; one row that says so where one of the checks that it needs has not passed."""
        if missing := [need for need in needs if need not in self.passed]:
            yield Finding(name, "skipped", f"needs {', '.join(missing)}")
            return
        has_failed = False
        try:
            for finding in rows():
                has_failed |= finding.status == "failed"
                yield finding
        except (UserError, OSError, RuntimeError, ValueError) as error:
            has_failed = True
            yield of_error(name, error)
        if not has_failed:
            self.passed.add(name)
