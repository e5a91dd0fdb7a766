"""Processor seconds of the command line's answers: help, and the message about a wrong key."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from benchmarks import timing

COMMANDS = ("--help", "train --help", "train optim.lrr=1")


def run(repeats: int = 5) -> dict[str, float]:
    """Time commands of `python -m sam3_hyperet`, each in a process of its own, in turn; print a table.

    Returns:
        `startup/<command>/cpu_s`, of user and system, the median over the turns.
    """
    calls = {command: lambda command=command: _cpu_seconds(command) for command in COMMANDS}
    times = timing.in_turn(calls, repeats)
    results = {f"startup/{command}/cpu_s": statistics.median(taken) for command, taken in times.items()}
    rows = [[f"sam3-hyperet {command}", f"{results[f'startup/{command}/cpu_s']:.2f} s"] for command in COMMANDS]
    timing.print_table("start-up, seconds of the processor", ("command", "seconds"), rows)
    return results


def _cpu_seconds(command: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "sam3_hyperet", *command.split()], capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
