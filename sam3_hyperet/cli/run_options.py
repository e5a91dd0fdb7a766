"""All options of a training run, read from its configuration and checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.options import read_options
from sam3_hyperet.training.distributed import FSDP
from sam3_hyperet.training.options import (
    STAGES,
    CacheOptions,
    LoggerOptions,
    OptimizerOptions,
    RadiusOptions,
    StageOptions,
    TrainOptions,
)


@dataclass(frozen=True)
class RunOptions:
    """The sections of a configuration of `tools/train.py`, each by its name there.

    Raises:
        ConfigError: sections that do not go together.
    """

    train: TrainOptions
    data: DataOptions
    optim: OptimizerOptions
    loss: LossOptions
    radius: RadiusOptions
    protocol: Protocol
    logger: LoggerOptions
    stage: StageOptions
    cache: CacheOptions
    hyperet: HyperETConfig
    seed: int
    evaluate: bool

    def __post_init__(self) -> None:
        if type(self.seed) is not int or self.seed < 0:
            raise ConfigError(f"seed={self.seed!r}; expected an integer from 0")
        if type(self.evaluate) is not bool:
            raise ConfigError(f"evaluate={self.evaluate!r}; expected true or false")
        self.stage.steps(self.train.max_steps)
        if self.train.strategy == FSDP:
            self._check_sharding()

    def _check_sharding(self) -> None:
        if self.stage.number != STAGES[-1]:
            last = f" to {self.stage.last}" if self.stage.last > self.stage.number else ""
            raise ConfigError(f"train.strategy={FSDP} in stage {self.stage.number}{last}; expected stage=3 alone")
        if self.train.prompts_at_once:
            raise ConfigError(
                f"train.strategy={FSDP} needs equally many passes in all processes; use train.prompts_at_once=0"
            )
        for name in ("learn_curvature", "learn_residual"):
            if getattr(self.hyperet, name):
                raise ConfigError(f"train.strategy={FSDP} cannot split single numbers; expected hyperet.{name}=false")


def read_run(values: Mapping[str, object]) -> RunOptions:
    """Read a configuration's plain values.

    Raises:
        ConfigError: unknown keys, values that cannot be, or sections that do not go together.
    """

    def section(cls: type, name: str) -> object:
        return read_options(cls, values[name], name)

    return RunOptions(
        section(TrainOptions, "train"),
        section(DataOptions, "data"),
        section(OptimizerOptions, "optim"),
        section(LossOptions, "loss"),
        section(RadiusOptions, "radius"),
        section(Protocol, "protocol"),
        section(LoggerOptions, "logger"),
        section(StageOptions, "stage"),
        section(CacheOptions, "cache"),
        HyperETConfig.from_mapping(values["hyperet"]),
        values["seed"],
        values["evaluate"],
    )
