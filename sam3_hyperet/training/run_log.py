"""Log of a run: metrics.jsonl, trackers (TensorBoard, Weights & Biases), and a progress bar or lines."""

import json
import math
import os
import uuid
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from sam3_hyperet.errors import DataError
from sam3_hyperet.files import replacing, storage_errors
from sam3_hyperet.reading import parse_json, read_text
from sam3_hyperet.training.options import LoggerOptions
from sam3_hyperet.training.run_files import CONFIG_FILE, HISTORY_FILE

_PACE_SECONDS = 600  # over which the pace is measured; rich's 30 hold less than two steps of a large model


def read_history(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; none where there is no file.

    A last line without its end is left out: a process was killed, or is still at work, in the middle of it.
    """
    if not os.path.lexists(path):
        return []
    found = []
    for number, line in enumerate(read_text(path).rpartition("\n")[0].splitlines(), 1):
        try:
            found.append(parse_json(line))
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not valid JSON ({error})") from None
        if not isinstance(found[-1], dict) or type(found[-1].get("step")) is not int:
            raise DataError(f"{path}: line {number} is {line:.60}, expected a step and its numbers by name")
    return found


class RunLog:
    """Logger of one run, inactive in any process but the first.

    At a terminal a bar shows how many of `total` steps are done; in a file, such as a job's log, a line at each logged
    step. A resumed run goes on from the step `start`: later lines of an earlier attempt are dropped. `options` names
    the trackers; there are none without.
    """

    def __init__(
        self,
        run_dir: Path,
        total: int,
        *,
        start: int = 0,
        is_judged: bool = True,
        active: bool = True,
        options: LoggerOptions | None = None,
    ) -> None:
        self.active = active
        self._path, self._total, self._validation = run_dir / HISTORY_FILE, total, ""
        self._trackers: list[TensorBoard | WeightsAndBiases] = []
        if active and options and options.tensorboard:
            self._trackers.append(TensorBoard(run_dir, start))
        if active and options and options.wandb:
            self._trackers.append(WeightsAndBiases(options.wandb, run_dir, start))
        losses = TextColumn("{task.fields[losses]}")
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), losses)
        self._bar = Progress(*columns, speed_estimate_period=_PACE_SECONDS)
        self._bar.disable = not (active and self._bar.console.is_terminal)
        self._task = self._bar.add_task("training", total=total, completed=start, losses="")
        if active:
            if self._path.is_file():
                kept = [line for line in read_history(self._path) if line["step"] <= start]
                if not is_judged:  # what follows the step is done again
                    kept = [line for line in kept if line["step"] < start or not _follows_a_step(line)]
                with replacing(self._path) as temporary:
                    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
            self._bar.start()

    def step(self, step: int, losses: str | None = None) -> None:
        """Show that a step is done, and its losses at a logged step, beside what validation found last."""
        self._bar.update(self._task, completed=step)
        if losses is None:
            return
        losses += self._validation
        self._bar.update(self._task, losses=losses)
        if self._bar.disable:
            seconds = self._bar.tasks[self._task].time_remaining
            left = "" if seconds is None else f"  {timedelta(seconds=math.ceil(seconds))} left"
            self.message(f"step {step} of {self._total}  {losses}{left}")

    def validation(self, step: int, found: str, short: str) -> None:
        """Show what validation found after a step; in short beside the steps that follow."""
        self._validation = f"  validation: {short}"
        self.message(f"validation {f'after step {step}' if step else 'before training'}: {found}")

    def write(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Append one line of a step's finite values (JSON has no others), and send all of them to the trackers.

        A tensor is a histogram, the counts in equal bins of [0, 1]; it goes to the trackers alone.
        """
        if not self.active:
            return
        numbers = {key: float(value) for key, value in values.items() if not isinstance(value, Tensor)}
        finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
        with storage_errors(self._path):
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


class TensorBoard:
    """Event files in `run_dir/tensorboard`; what an earlier attempt wrote after the step `start` is not shown."""

    def __init__(self, run_dir: Path, start: int) -> None:
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        for key, value in values.items():
            if not isinstance(value, Tensor):
                self._writer.add_scalar(key, value, step)
                continue
            counts = value.numpy()
            edges = np.linspace(0.0, 1.0, len(counts) + 1)
            middles = (edges[1:] + edges[:-1]) / 2
            moments = {"num": counts.sum(), "sum": counts @ middles, "sum_squares": counts @ middles**2}
            bins = {"bucket_limits": edges[1:].tolist(), "bucket_counts": counts.tolist()}
            self._writer.add_histogram_raw(key, min=0.0, max=1.0, **moments, **bins, global_step=step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases with its configuration, in which a resumed run goes on.

    W&B's own step can only grow, and a run that was killed repeats some: the axis is the value "step" instead.
    """

    def __init__(self, project: str, run_dir: Path, start: int) -> None:
        import wandb

        name, file = run_dir / "wandb_id", run_dir / CONFIG_FILE
        if not start or not name.is_file():
            name.write_text(uuid.uuid4().hex[:8])
        self._histogram = wandb.Histogram
        config = OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else None
        self._run = wandb.init(
            project=project, name=run_dir.name, dir=str(run_dir), id=name.read_text(), resume="allow", config=config
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        shown: dict[str, Any] = {"step": step, **values}
        for key, value in values.items():
            if isinstance(value, Tensor):
                shown[key] = self._histogram(np_histogram=(value.numpy(), np.linspace(0.0, 1.0, len(value) + 1)))
        self._run.log(shown)

    def close(self) -> None:
        self._run.finish()


def _follows_a_step(line: Mapping[str, object]) -> bool:
    """Whether a line is of a validation, or of the beginning of a stage."""
    return any(key.startswith("tune/") or key == "train/stage" for key in line)
