"""Work in the background, in order: masks are enlarged, encoded and matched while the model is at the next prompts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def background(threads: int) -> Iterator[Callable[[int], Line]]:
    """Threads for lines of work, 0 to do everything at once in the caller's; errors are raised where work is put or
    waited for, at the end at the latest.

    Yields a function that starts another line, of which at most so many calls wait: so memory is bounded.
    """
    executors = [ThreadPoolExecutor(1, thread_name_prefix="evaluation") for _ in range(threads)]
    lines: list[Line] = []

    def line(most_pending: int) -> Line:
        lines.append(Line(executors[len(lines) % threads] if threads else None, most_pending))
        return lines[-1]

    try:
        yield line
        for one in lines:
            one.wait()
    finally:
        for executor in executors:
            executor.shutdown(wait=True, cancel_futures=True)


class Line:
    """Calls that are done one after the other."""

    def __init__(self, executor: ThreadPoolExecutor | None, most_pending: int) -> None:
        self._executor, self._most = executor, max(1, most_pending)
        self._pending: deque[Future[None]] = deque()

    def put(self, function: Callable[..., None], *arguments: Any) -> None:
        """Do it now or later; waits while too much is pending. Raises what an earlier call raised."""
        if self._executor is None:
            _call(function, *arguments)
            return
        while self._pending and (len(self._pending) >= self._most or self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._executor.submit(_call, function, *arguments))

    def wait(self) -> None:
        """Return when all is done. Raises what a call raised."""
        while self._pending:
            self._pending.popleft().result()


def _call(function: Callable[..., None], *arguments: Any) -> None:
    with torch.inference_mode():  # each thread has a mode of its own
        function(*arguments)
