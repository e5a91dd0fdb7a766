"""Estimate of a run's memory from its parameters, and of its time from its own past."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.modeling.outline import outline
from sam3_hyperet.options import read_options
from sam3_hyperet.training.options import StageOptions
from sam3_hyperet.training.run_files import HISTORY_FILE
from sam3_hyperet.training.run_log import read_history
from sam3_hyperet.training.stages import set_stage

_BYTES = 4  # of a weight, its gradient or one of AdamW's two moments; mixed precision keeps them in fp32 too


@dataclass(frozen=True)
class Estimate:
    """What one process needs at least.

    Attributes:
        total, trained: numbers of parameters.
        seconds: of the steps to come, at the pace of the run so far; None where it has none.
    """

    total: int
    trained: int
    seconds: float | None

    @property
    def memory_gb(self) -> float:
        """Weights, gradients and AdamW's moments, in 10⁹ bytes; activations and the libraries come on top."""
        return (self.total + 3 * self.trained) * _BYTES / 1e9

    def __str__(self) -> str:
        pace = "" if self.seconds is None else f"about {self.seconds / 60:.0f} min at the pace of the run so far"
        time = pace or "time not known before the first step"
        return (
            f"expected: {time}; memory of a process {self.memory_gb:.2f} GB ({self.total / 1e6:.1f} M weights, "
            f"{self.trained / 1e6:.2f} M of them with gradient and AdamW's moments) plus activations "
            "(see sam3-hyperet forecast)"
        )


def estimate(
    model: Mapping[str, Any], hyperet: Mapping[str, Any], stage: Mapping[str, Any], steps: int | None, run_dir: Path
) -> Estimate:
    """Count the parameters of the run that these sections of a configuration describe, without making any weight.

    steps: of the run; None where they are not known yet.
    """
    built = outline(read_options(ModelOptions, model, "model"), HyperETConfig.from_mapping(hyperet))
    options = read_options(StageOptions, stage, "stage")
    report = set_stage(built, options.last, options.layers)
    done = [line for line in read_history(run_dir / HISTORY_FILE) if "train/seconds" in line][-1:]
    seconds = [line["train/seconds"] / line["step"] * max(0, steps - line["step"]) for line in done if steps]
    return Estimate(report.trainable + report.frozen, report.trainable, seconds[0] if seconds else None)
