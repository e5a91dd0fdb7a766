"""What a run writes while it trains: metrics.jsonl, TensorBoard, and a progress bar with the losses."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

FILE = "metrics.jsonl"


class RunLog:
    """Logger of one run; on any process but the first it does nothing.

    Args:
        run_dir: where the files go.
        total: steps of the whole run, for the bar.
        start: the step that a resumed run goes on from: later lines of an earlier attempt are dropped.
        active: whether this process logs.
        tensorboard: whether to write event files.
    """

    def __init__(
        self, run_dir: Path, total: int, *, start: int = 0, active: bool = True, tensorboard: bool = True
    ) -> None:
        self.active = active
        self._path = run_dir / FILE
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start) if active and tensorboard else None
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            disable=not active,
        )
        self._task = self._bar.add_task("training", total=total, completed=start, losses="")
        if active:
            self._drop_lines_after(start)
            self._bar.start()

    def step(self, step: int, losses: str | None = None) -> None:
        """Advance the bar to `step`."""
        self._bar.update(self._task, completed=step)
        if losses is not None:
            self._bar.update(self._task, losses=losses)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line of the finite values at a step (JSON has no others), and send all to TensorBoard."""
        if not self.active:
            return
        with self._path.open("a") as file:
            file.write(
                json.dumps({"step": step, **{k: float(v) for k, v in values.items() if math.isfinite(v)}}) + "\n"
            )
        if self._writer:
            for key, value in values.items():
                self._writer.add_scalar(key, float(value), step)

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, highlight=False)

    def close(self) -> None:
        """Stop the bar and flush."""
        self._bar.stop()
        if self._writer:
            self._writer.close()

    def _drop_lines_after(self, start: int) -> None:
        if not self._path.is_file():
            return
        kept = [line for line in self._path.read_text().splitlines() if json.loads(line)["step"] <= start]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in kept))
        temporary.replace(self._path)
