"""Work in the background, in order: masks are enlarged, encoded and matched while the model is at the next prompts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch


class Background:
    """Threads, each of which does what it is given in order; an error comes out where work is given or waited for.

    Args:
        threads: 0 to do everything at once, in the caller's thread.
    """

    def __init__(self, threads: int) -> None:
        self._executors = [ThreadPoolExecutor(1, thread_name_prefix="evaluation") for _ in range(threads)]
        self._lines: list[Line] = []

    def line(self, most_pending: int) -> Line:
        """Another line of work, done in order; at most `most_pending` calls wait, so memory is bounded."""
        executor = self._executors[len(self._lines) % len(self._executors)] if self._executors else None
        self._lines.append(Line(executor, most_pending))
        return self._lines[-1]

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for line in self._lines:
                    line.wait()
        finally:
            for executor in self._executors:
                executor.shutdown(wait=True, cancel_futures=True)


class Line:
    """Calls that are done one after the other."""

    def __init__(self, executor: ThreadPoolExecutor | None, most_pending: int) -> None:
        self._executor = executor
        self._most = max(1, most_pending)
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
