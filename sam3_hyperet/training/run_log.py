"""What a run says while it trains: metrics.jsonl, the trackers, and how far it is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from sam3_hyperet.files import replacing
from sam3_hyperet.training.logging import open_trackers
from sam3_hyperet.training.options import LoggerOptions

FILE = "metrics.jsonl"
_PACE_SECONDS = 600  # over which the pace is measured; rich's 30 hold less than two steps of a large model


def read_history(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; none where there is no file.

    A last line without its end is left out: a killed process left it half written, or a living one is at it.
    """
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().rpartition("\n")[0].splitlines()]


class RunLog:
    """Logger of one run; on any process but the first it does nothing.

    At a terminal a bar shows how far the run is; in a file, such as a job's log, a line at each logged step.

    Args:
        run_dir: where the files go.
        total: steps of the whole run.
        start: the step that a resumed run goes on from: later lines of an earlier attempt are dropped.
        active: whether this process logs.
        options: the trackers; none without.
    """

    def __init__(
        self,
        run_dir: Path,
        total: int,
        *,
        start: int = 0,
        active: bool = True,
        options: LoggerOptions | None = None,
    ) -> None:
        self.active = active
        self._path, self._total = run_dir / FILE, total
        self._trackers = open_trackers(options, run_dir, start) if active and options else []
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            speed_estimate_period=_PACE_SECONDS,
        )
        self._bar.disable = not (active and self._bar.console.is_terminal)
        self._task = self._bar.add_task("training", total=total, completed=start, losses="")
        if active:
            self._drop_lines_after(start)
            self._bar.start()

    def step(self, step: int, losses: str | None = None) -> None:
        """Say that a step is done.

        Args:
            losses: to show, at a logged step.
        """
        self._bar.update(self._task, completed=step)
        if losses is None:
            return
        self._bar.update(self._task, losses=losses)
        if self._bar.disable:
            seconds = self._bar.tasks[self._task].time_remaining
            left = "" if seconds is None else f"  {timedelta(seconds=math.ceil(seconds))} left"
            self.message(f"step {step} of {self._total}  {losses}{left}")

    def write(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Append one line of a step's finite figures (JSON has no others), and send all of them to the trackers.

        Args:
            values: a tensor is a histogram, the counts in equal bins of [0, 1]; it goes to the trackers alone.
        """
        if not self.active:
            return
        figures = {key: float(value) for key, value in values.items() if not isinstance(value, Tensor)}
        finite = {key: value for key, value in figures.items() if math.isfinite(value)}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for tracker in self._trackers:
            tracker.write(step, values)

    def message(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        if self.active:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Stop the bar, and let the trackers write what they hold."""
        self._bar.stop()
        for tracker in self._trackers:
            tracker.close()

    def _drop_lines_after(self, start: int) -> None:
        if not self._path.is_file():
            return
        kept = [line for line in read_history(self._path) if line["step"] <= start]
        with replacing(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
