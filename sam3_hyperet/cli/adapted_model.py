"""The one model that `model=`, `adapter=`, `run=` and `dial=` describe."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.composition import plain
from sam3_hyperet.cli.of_run import listed
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.adapter_file import load_adapter
from sam3_hyperet.modeling.adapter_source import is_on_hub, locate_adapter
from sam3_hyperet.modeling.dial import dial_of, set_dial
from sam3_hyperet.modeling.opening import check_checkpoint, choose_device, open_model
from sam3_hyperet.reading import regular_file
from sam3_hyperet.training.run_files import ADAPTER, WEIGHTS


def open_adapted(config: DictConfig) -> tuple[host.Sam3Image, str | None]:
    """The model on its device, and its adapter file.

    A run's model has the base weights that the run trained, if it did, unless `model=` describes another base. Raises
    ConfigError for several runs or adapters, CheckpointError for a run without results and for files that do not fit.
    """
    values, adapter = described(config)
    check_opening(config, values, adapter)
    return open_described(config, values, adapter), adapter


def described(config: DictConfig) -> tuple[dict[str, Any], str | None]:
    """The section `model` and the adapter file, as for `open_described`; an adapter of the hub is fetched.

    Raises ConfigError and CheckpointError as `open_adapted`, but for what `check_opening` looks for.
    """
    values: dict[str, Any] = plain(config.model)
    adapter = config.adapter
    if isinstance(adapter, ListConfig):
        if len(adapter) != 1:
            raise ConfigError(f"adapter={adapter}; expected one adapter")
        adapter = adapter[0]
    if len(runs := listed(config.run)) > 1:
        raise ConfigError(f"run={config.run}; expected one run")
    for run in runs:
        weights, best = run / WEIGHTS["best"], run / ADAPTER["best"]
        if not weights.is_file() and not best.is_file():
            missing = f"neither {best.name} nor {weights.name} is there"
            raise CheckpointError(f"run={run}: {missing}; expected a finished run")
        if weights.is_file() and "model" in config.of_run:
            values["checkpoint"] = str(weights)
        if adapter is None and best.is_file():
            adapter = str(best)
    if adapter is not None:
        given, adapter = adapter, str(locate_adapter(adapter))
        if is_on_hub(given):
            print(f"{given}: {adapter}")
    if config.dial is not None and adapter is None:
        raise ConfigError(f"dial={config.dial:g}: there is no adapter; expected adapter=FILE, or a run that has one")
    return values, adapter


def check_opening(config: DictConfig, values: Mapping[str, Any], adapter: str | None) -> None:
    """Raise where the device, or a file that `described` found named, is not there; nothing is read.

    Raises ConfigError for the device, CheckpointError for a file. It is for the beginning of a command.
    """
    choose_device(config.device)
    check_checkpoint(values)
    if adapter:
        regular_file(adapter, CheckpointError)


def open_described(config: DictConfig, values: Mapping[str, Any], adapter: str | None) -> host.Sam3Image:
    """The model that `described` describes, on its device. Raises CheckpointError for files that do not fit."""
    model = open_model(values).to(choose_device(config.device))
    if adapter:
        load_adapter(model, adapter)
    if config.dial is not None:
        set_dial(model, config.dial)
    return model


def dial_line(model: host.Sam3Image, given: float | None) -> str:
    """The dial of a model's adapter in one line for people; "" where it is as trained, and nobody wanted another."""
    dial = dial_of(model)
    if given is None and dial == 1.0:
        return ""
    return f"dial {dial:g}{' (as the adapter file says)' if given is None else ''}"
