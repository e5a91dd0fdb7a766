"""Paired timings: calls in turn, medians, ratios within a turn, peaks of memory in a process each, and tables.

A busy machine slows the two sides of a ratio within one turn alike, so ratios are compared and seconds only reported.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import cv2
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sam3_hyperet.errors import DataError, UserError

Times = dict[str, list[float]]
"""Seconds of each call, by turn."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with `count` threads of PyTorch and OpenCV, a fixed seed, and the generator restored afterwards."""
    before, cv2_before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(cv2_before)


def now() -> float:
    """Seconds: of the processor with one thread, which other jobs hardly touch; of the clock with more."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = now()
    call()
    return now() - start


def forward(call: Callable[..., Tensor], *inputs: Tensor) -> float:
    """Seconds of a call without gradients."""
    with torch.no_grad():
        return seconds(lambda: call(*inputs))


def forward_backward(call: Callable[..., Tensor], *inputs: Tensor) -> float:
    """Seconds of a call and the gradients of its inputs and parameters; the output has the first input's shape."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    if isinstance(call, nn.Module):
        call.zero_grad(set_to_none=True)
    gradient = torch.ones_like(leaves[0])
    return seconds(lambda: call(*leaves).backward(gradient))


def in_turn(calls: Mapping[str, Callable[[], float]], turns: int, fewer: Mapping[str, int] | None = None) -> Times:
    """Seconds that each call returns in each turn, after one turn that compiles and fills caches.

    fewer: calls that are left out after so many turns.
    """
    for call in calls.values():
        call()
    times: Times = {name: [] for name in calls}
    for turn in range(turns):
        for name, call in calls.items():
            if turn < (fewer or {}).get(name, turns):
                times[name].append(call())
    return times


def ratio(slow: Sequence[float], quick: Sequence[float]) -> float:
    """Median of the ratios within a turn, over the turns that both have."""
    return statistics.median(a / b for a, b in zip(slow, quick, strict=False))


def in_process(call: Callable[[], Any], method: str) -> tuple[Any, float]:
    """Result of a call in a process of its own, and the GiB that the process held at its peak.

    method: "fork", or "spawn" for a process without this one's memory; `call` must then be picklable.

    Raises:
        UserError: that of the call; DataError if the process ended early.
    """
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, call))
    process.start()
    sender.close()
    try:
        result, peak = receiver.recv()
    except EOFError as error:
        process.join()
        raise DataError(f"a measurement ended early, with exit status {process.exitcode}") from error
    process.join()
    if isinstance(result, UserError):
        raise result
    return result, peak


def _send_result(sender: Connection, call: Callable[[], Any]) -> None:
    try:
        result = call()
    except UserError as error:
        result = error
    sender.send((result, peak_gib()))


def peak_gib() -> float:
    """GiB of resident memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def print_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> None:
    """Print a table whose first column is text and whose others are numbers."""
    table = Table(title=title, caption=caption or None)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
