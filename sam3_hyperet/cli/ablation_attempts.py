"""Bases, trials and runs of a study made one by one, beside other processes that make the same; without torch."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sam3_hyperet.ablation.failures import failure_in, recorded
from sam3_hyperet.cli.ablation_failures import failures, loses_device, reason_of
from sam3_hyperet.cli.ablation_study import LOG, Study
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import sole_use

_WAIT_SECONDS = 20


@dataclass
class Budget:
    """How much may be begun in this call: so many runs, and none that would end after so many hours."""

    runs: int | None
    hours: float | None
    started: float = field(default_factory=time.monotonic)
    begun: int = 0

    def allows(self, seconds: float | None) -> bool:
        """Whether one more run may begin that is expected to take so long."""
        late = self.hours is not None and time.monotonic() - self.started + (seconds or 0) > 3600 * self.hours
        return not late and (self.runs is None or self.begun < self.runs)


@dataclass(frozen=True)
class Task:
    """A base, a trial or a run to be made.

    Attributes:
        is_left: whether no process has made it meanwhile.
        seconds: how long it is expected to take, None where nothing says it.
        make: makes it and returns what came of it, in a line.
    """

    name: str
    folder: Path
    is_left: Callable[[], bool]
    make: Callable[[], str]
    seconds: Callable[[], float | None] = lambda: None


class Attempts:
    """The tasks of a call, each of which is tried once: what fails here, or in another process, is left to the next.

    Attributes:
        failed: what failed here, by name, with the reasons.
        again: whether what had failed before the call is tried, too; all else comes first.
        has_lost_device: whether an error left this process unable to compute, so that it tries nothing more.
    """

    def __init__(self, study: Study) -> None:
        self.failed: dict[str, str] = {}
        self.again = self.has_lost_device = False
        self._say, self._earlier = study.say, failures(study)

    @property
    def rounds(self) -> tuple[bool, ...]:
        """The values of `again`, in order."""
        return (False, True) if self._earlier else (False,)

    def has_failed(self, task: Task) -> bool:
        """Whether a task has failed since the call began, in any process."""
        found = failure_in(task.folder)
        return task.name in self.failed or (found is not None and found != self._earlier.get(task.folder))

    def is_open(self, task: Task) -> bool:
        """Whether a task of this round is neither made nor failed: another process may be at it."""
        return self._is_of_round(task) and task.is_left() and not self.has_failed(task)

    def make(self, tasks: Sequence[Task], budget: Budget, *, wait: bool) -> None:
        """Make the tasks of this round, as far as the budget goes; those that another process is at are left to it.

        wait: for these, too: all of them are needed for what comes next.
        """
        todo = [task for task in tasks if self._is_of_round(task)]
        while todo:
            busy = []
            for task in todo:
                if self.has_lost_device or not budget.allows(task.seconds()):
                    return
                with ExitStack() as stack:
                    try:
                        stack.enter_context(sole_use(task.folder))
                    except ConfigError:  # another process is at it
                        busy.append(task)
                        continue
                    if self.is_open(task):
                        budget.begun += 1
                        self._make(task)
            if busy and not wait:
                self._say(f"being made by other processes: {', '.join(task.name for task in busy)}")
                return
            if todo := busy:
                time.sleep(_WAIT_SECONDS)

    def _is_of_round(self, task: Task) -> bool:
        return self.again or task.folder not in self._earlier

    def _make(self, task: Task) -> None:
        try:
            with recorded(task.folder, reason_of):
                line = task.make()
        except Exception as error:  # a bug or a lack of memory in one arm, too, leaves the others as they are
            self.failed[task.name] = reason_of(error)
            self._say(f"failed: {task.name}: {self.failed[task.name]}; log: {task.folder / LOG}")
            self.has_lost_device = loses_device(error)
        except (SystemExit, KeyboardInterrupt):
            self._say(f"stopped in {task.name}; the same command goes on")
            raise
        else:
            self._say(line)
