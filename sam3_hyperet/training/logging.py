"""Where the figures of a run can be watched while it trains: TensorBoard, and Weights & Biases."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from sam3_hyperet.training.options import LoggerOptions


class Tracker(Protocol):
    """Takes the figures of a step; a tensor is a histogram, the counts in equal bins of [0, 1]."""

    def write(self, step: int, values: Mapping[str, float | Tensor]) -> None: ...

    def close(self) -> None: ...


def open_trackers(options: LoggerOptions, run_dir: Path, start: int) -> list[Tracker]:
    """Those that the options name.

    Args:
        run_dir: where their files go.
        start: the step that a resumed run goes on from.
    """
    trackers: list[Tracker] = []
    if options.tensorboard:
        trackers.append(TensorBoard(run_dir, start))
    if options.wandb:
        trackers.append(WeightsAndBiases(options.wandb, run_dir, start))
    return trackers


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
            self._writer.add_histogram_raw(
                key,
                min=0.0,
                max=1.0,
                num=counts.sum(),
                sum=counts @ middles,
                sum_squares=counts @ middles**2,
                bucket_limits=edges[1:].tolist(),
                bucket_counts=counts.tolist(),
                global_step=step,
            )

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run at Weights & Biases, with the configuration beside it; a resumed run goes on in the same one.

    Its own step can only grow, and a run that was killed repeats some: the axis is the figure "step" instead.
    """

    def __init__(self, project: str, run_dir: Path, start: int) -> None:
        import wandb

        name, config = run_dir / "wandb_id", run_dir / "config.yaml"
        if not start or not name.is_file():
            name.write_text(uuid.uuid4().hex[:8])
        self._histogram = wandb.Histogram
        self._run = wandb.init(
            project=project,
            name=run_dir.name,
            dir=str(run_dir),
            id=name.read_text(),
            resume="allow",
            config=OmegaConf.to_container(OmegaConf.load(config)) if config.is_file() else None,
        )
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        shown = {
            key: self._histogram(np_histogram=(value.numpy(), np.linspace(0.0, 1.0, len(value) + 1)))
            if isinstance(value, Tensor)
            else value
            for key, value in values.items()
        }
        self._run.log({"step": step, **shown})

    def close(self) -> None:
        self._run.finish()
