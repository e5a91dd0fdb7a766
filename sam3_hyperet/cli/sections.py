"""What options a command line has: the sections with their dataclasses, and the checks of keys outside them."""

from __future__ import annotations

from collections.abc import Callable

from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.launch.options import SlurmOptions
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.training.options import (
    CacheOptions,
    LoggerOptions,
    OptimizerOptions,
    RadiusOptions,
    StageOptions,
    TrainOptions,
)

SECTIONS: dict[str, type] = {
    "model": ModelOptions,
    "hyperet": HyperETConfig,
    "stage": StageOptions,
    "data": DataOptions,
    "loss": LossOptions,
    "optim": OptimizerOptions,
    "radius": RadiusOptions,
    "train": TrainOptions,
    "cache": CacheOptions,
    "logger": LoggerOptions,
    "protocol": Protocol,
    "launcher": SlurmOptions,
}


def check_key(command: str, key: str, value: object) -> None:
    """Raise a ConfigError if a tool's key outside the sections has a value that it cannot have."""
    fits, expected = _KEYS.get(f"{command} {key}") or _KEYS.get(key) or (None, "")
    if fits is not None and not fits(value):
        raise ConfigError(f"{key}={value!r}; expected {expected}")


def _from(least: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and value >= least


def _is_probability(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]


def _is_switch(value: object) -> bool:
    return type(value) is bool


_KEYS: dict[str, tuple[Callable[[object], bool], str]] = {
    "run_dir": (lambda value: isinstance(value, str) and bool(value.strip()), "a folder to write to"),
    "seed": (_from(0), "an integer from 0"),
    "threads": (_from(0), "an integer from 0"),
    "prompts_at_once": (_from(0), "an integer from 0"),
    "workers": (_from(1), "an integer from 1"),
    "devices": (_from(1), "an integer from 1"),
    "score_threshold": (_is_probability, "a probability"),
    "mask_threshold": (_is_probability, "a probability"),
    "evaluate": (_is_switch, "true or false"),
    "keep_records": (_is_switch, "true or false"),
    "device": (lambda value: str(value).split(":")[0] in ("auto", "cpu", "cuda"), "auto, cpu or cuda"),
    "evaluate resume": (lambda value: value in ("auto", "never"), "auto or never"),
}
