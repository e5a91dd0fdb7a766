"""The model that the section `model` of a tool's configuration describes."""

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping

import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.build import build_model, check_weights_named
from sam3_hyperet.modeling.checkpoint import load_base
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.modeling.controls.matching import matched_size
from sam3_hyperet.modeling.inject import inject
from sam3_hyperet.modeling.layouts.base_files import HUB_FILES, locate_base
from sam3_hyperet.options import NonNegativeInt, check_value, read_options
from sam3_hyperet.reading import regular_file
from sam3_hyperet.wording import count_of


def open_model(values: Mapping[str, object]) -> host.Sam3Image:
    """The base model, on the CPU, that the section `model` of a configuration describes; prints what was loaded."""
    options = read_options(ModelOptions, values, "model")
    with _printed(logging.getLogger(load_base.__module__)):
        return build_model(**vars(options))


def check_checkpoint(values: Mapping[str, object]) -> None:
    """Raise a CheckpointError where the base weights that a configuration names on disk are not there.

    Raises ConfigError where it names none for a model without weights in the package. Nothing is read or fetched: it
    is for the beginning of a command, before its data is opened.
    """
    options = read_options(ModelOptions, values, "model")
    check_weights_named(options.name, checkpoint := options.checkpoint)
    if checkpoint is not None and checkpoint not in ("random", *HUB_FILES):
        regular_file(locate_base(checkpoint), CheckpointError)


def open_adapted_model(values: Mapping[str, object], hyperet: HyperETConfig) -> host.Sam3Image:
    """As `open_model`, with new adapters; also prints the size of a control that is matched to HyperET's."""
    model = open_model(values)
    with _printed(logging.getLogger(matched_size.__module__)):
        return model if hyperet.is_empty else inject(model, hyperet)


@contextlib.contextmanager
def _printed(logger: logging.Logger) -> Iterator[None]:
    handler, level, propagates = logging.StreamHandler(sys.stdout), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # what sam3 imports gives the root logger a handler of its own
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates


def set_threads(count: int) -> None:
    """PyTorch's threads, of an option threads=N; 0 leaves its own choice."""
    check_value("threads", count, NonNegativeInt)
    if count:
        torch.set_num_threads(count)


def choose_device(name: str) -> torch.device:
    """The device of an option device=auto|cpu|cuda…: auto is CUDA where there is one, gpu another word for it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name.replace("gpu", "cuda", 1))
    except RuntimeError as error:
        raise ConfigError(f"device={name}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name}, but PyTorch finds no CUDA device; expected auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        expected = f"cuda:0 to cuda:{count - 1}" if count > 1 else "cuda:0"
        raise ConfigError(f"device={name}, but PyTorch finds {count_of(count, 'CUDA device')}; expected {expected}")
    return device
