"""What a run's model weighs: parameters, memory, what is written, what a feature cache takes."""

import math
from collections.abc import Iterator
from typing import Any

from sam3_hyperet.doctor.findings import Finding, ok
from sam3_hyperet.doctor.machine import Gpus, memory_rows, size_text
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.training.options import FSDP, CacheOptions, FitOptions
from sam3_hyperet.wording import count_of

_LOG_BYTES = 64 * 2**20  # of metrics, TensorBoard, records and the report
_FLOAT = 4  # bytes


class Sizes:
    """Sizes of the adapted model, found without making its weights.

    Attributes:
        model: the adapted model without weights; None before `rows`.
        total, trained: numbers of parameters, at the stage that trains most.
    """

    def __init__(self, model: ModelOptions, hyperet: HyperETConfig, fit: FitOptions) -> None:
        self._options, self._hyperet, self._fit = model, hyperet, fit
        self.model: Any = None
        self.total = self.trained = 0

    def rows(self) -> Iterator[Finding]:
        """Build the outline. Raises ConfigError for a resolution, sites or a stage that the model cannot have."""
        from sam3_hyperet.modeling.build import resolution
        from sam3_hyperet.modeling.outline import outline
        from sam3_hyperet.training.stages import set_stage

        self.model = outline(self._options, self._hyperet)
        stage = self._fit.stage
        report = set_stage(self.model, stage.last, stage.layers)
        self.total, self.trained = report.trainable + report.frozen, report.trainable
        side, sites = resolution(self.model), self._hyperet.place or "no adapters"
        size = f"{self.total / 1e6:.1f} M parameters, of which {self.trained:,} train"
        yield ok("sizes", f"{self._options.name} at {side} pixels with {sites}: {size} in stage {stage.last}")

    def option_rows(self) -> Iterator[Finding]:
        """Make what a run would make of the options of the optimizer and the curvature. Raises ConfigError."""
        from sam3_hyperet.training.curvature_schedule import radius_control
        from sam3_hyperet.training.optimizer import build_optimizer

        build_optimizer(self.model, self._fit.optim)
        train = self._fit.train
        radius_control(self.model, self._fit.radius, train.max_steps or 1)
        length = f"{train.max_steps:,} steps" if train.max_steps else f"train.epochs={train.epochs:g}"
        yield ok("options", f"optimizer and curvature for {length}")

    def check_cache(self, options: CacheOptions, views: int) -> None:
        """Raise a ConfigError if the feature cache cannot be used; `views` of an image, 0 for ever new ones."""
        from sam3_hyperet.training.feature_cache import check_cache

        check_cache(self.model, options, self._fit.stage, views)

    @property
    def bytes_written(self) -> int:
        """About what a run writes: two saved states and a third while it is written, and the best and last weights."""
        states = 3 * 3 * _FLOAT * self.trained
        weights = 2 * _FLOAT * (self.total if self._fit.stage.last > 1 else self.trained)
        return states + weights + _LOG_BYTES

    def bytes_of_cache(self, options: CacheOptions, views: int) -> int:
        """What the features of so many views take on disk."""
        from sam3_hyperet.training.feature_cache import bytes_per_view

        return views * bytes_per_view(self.model, options.dtype)

    def job_memory_rows(self, launcher: SlurmOptions) -> Iterator[Finding]:
        """Whether the job asks for the memory that its processes on a node need; of a GPU's job, for its weights."""
        in_memory, kept = self.total + 3 * self.trained, "weights, gradients and AdamW's moments"
        if launcher.has_gpus:  # which have the rest
            in_memory, kept = self.total, "weights"
        needed = launcher.tasks_per_node * in_memory * _FLOAT
        if launcher.mem_gb is None:
            yield ok("memory", f"launcher.mem_gb is the cluster's default; a node needs {size_text(needed)} and more")
            return
        what = f"{kept} of {count_of(launcher.tasks_per_node, 'process')}"
        remedy = f"launcher.mem_gb={math.ceil(needed / 1e9)} or more"
        yield from memory_rows(needed, int(launcher.mem_gb * 1e9), "by launcher.mem_gb", what, remedy)

    def memory_rows(self, gpus: Gpus) -> Iterator[Finding]:
        """Whether weights, gradients and optimizer state fit into the memory of the device that trains."""
        import psutil

        train = self._fit.train
        parts = train.devices * train.nodes if train.strategy == FSDP else 1  # of each parameter, one a process
        needed = (self.total + 3 * self.trained) * _FLOAT // parts
        on_gpu = bool(gpus.names) and train.accelerator != "cpu"
        free, where = (min(gpus.free), "on the GPU") if on_gpu else (psutil.virtual_memory().available, "here")
        yield from memory_rows(needed, free, where, "weights, gradients and AdamW's moments")
