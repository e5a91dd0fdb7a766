"""How far a tool is: a bar at a terminal, paced lines in a file such as a job's log."""

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import Progress

_FIRST_SECONDS, _PACE_SECONDS = 5, 60  # before the first line, and between two of them


@contextmanager
def progress(
    console: Console, what: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[int, int], None]]:
    """Show how many of `what`, such as "images", are done: the value is called with so many, of how many.

    Where there is no terminal, a line appears after the first one that ends 5 seconds or later, then once a minute at
    most, and at the end; it has their pace and the time that is left. What takes less than 5 seconds gets none.
    """
    if console.is_terminal:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    started = clock()
    due = started + _FIRST_SECONDS

    def show(done: int, total: int) -> None:
        nonlocal due
        now = clock()
        if now >= due or (done == total and due > started + _FIRST_SECONDS):
            due = now + _PACE_SECONDS
            console.print(_line(what, done, total, now - started), markup=False, soft_wrap=True)

    yield show


@contextmanager
def counted(
    console: Console, what: str, total: int, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], None]]:
    """The same of a known number, its value called after each of them."""
    done = itertools.count(1)
    with progress(console, what, clock) as show:
        yield lambda: show(next(done), total)


def _line(what: str, done: int, total: int, seconds: float) -> str:
    rate = done / seconds if seconds else math.inf
    pace = f"{rate:.3g} a second" if rate >= 1 else f"{1 / rate:.3g} s each"
    left = f"{timedelta(seconds=math.ceil((total - done) / rate))} left" if done < total else "all done"
    return f"{done:,} of {total:,} {what}, {pace}, {left}"
