"""Model with adapters for SAM 3's own trainer, which builds its model by one call."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.modeling.adapter_source import locate_adapter
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.inject import inject
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.modeling.tensor_files import check_fits, read_state
from sam3_hyperet.training.stages import set_stage
from sam3_hyperet.training.warm_start import load_to_train

logger = logging.getLogger(__name__)


def adapted_model(
    name: str = "large",
    checkpoint: str | Path | None = None,
    resolution: int | None = None,
    seed: int = 0,
    hyperet: Mapping[str, object] | None = None,
    stage: int = 1,
    adapter: str | Path | None = None,
) -> host.Sam3Image:
    """Build a model with adapters, ready to train; `_target_: sam3_hyperet.adapted_model` in SAM 3's configuration.

    Args:
        name, checkpoint, resolution, seed: as for `build_model`; "large" needs a checkpoint.
        hyperet: options of `HyperETConfig`; None is its defaults, or those of an adapter file.
        stage: as for `set_stage`.
        adapter: adapters to start from: what `load_adapter` takes, or a checkpoint that SAM 3's trainer wrote with the
            same `hyperet`.

    Raises ConfigError for an unknown option or one that cannot be, CheckpointError for weights that do not fit.
    """
    options: Any = OmegaConf.to_container(hyperet, resolve=True) if isinstance(hyperet, DictConfig) else hyperet
    model = build_model(name, checkpoint=checkpoint, resolution=resolution, seed=seed)
    path = None if adapter is None else locate_adapter(adapter)
    of_ours = path if path is not None and path.suffix == ".safetensors" else None
    if options is not None or of_ours is None:
        inject(model, HyperETConfig.from_mapping(options or {}))
    if of_ours is not None:
        if (dial := load_to_train(model, of_ours)) != 1.0:
            logger.warning("%s was saved at dial %g; it is trained at 1", of_ours, dial)
    elif path is not None:
        _load_trained(model, path)
    logger.info("%s", set_stage(model, stage))
    return model


def _load_trained(model: nn.Module, path: str | Path) -> None:
    """Adapters from a checkpoint that SAM 3's trainer wrote."""
    parameters, found = dict(adapter_parameters(model)), read_state(path)
    if missing := [name for name in parameters if name not in found]:
        there = f"{len(parameters) - len(missing)} of {len(parameters)} adapter parameters found"
        expected = "expected hyperet= as it was when the checkpoint was written"
        raise CheckpointError(f"{path}: {there}; missing first {', '.join(missing[:3])}; {expected}")
    for name, parameter in parameters.items():
        check_fits(path, name, found[name], parameter)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(found[name])
