"""The models of an evaluation: the base, and what adapter files and training runs make of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import KEPT
from sam3_hyperet.modeling.adapter_file import load_adapter
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.copies import adapted_copy, shared_copy
from sam3_hyperet.modeling.dial import dial_of, set_dial
from sam3_hyperet.modeling.opening import open_model
from sam3_hyperet.modeling.parameters import base_state_dict
from sam3_hyperet.modeling.probe import watchable_base

BASE = "base"
EXACT, FIRST_LOOKS, DIALS = "exact", "first-looks", "dials"
FOLDERS = (EXACT, FIRST_LOOKS, DIALS, KEPT)
"""Folders beside the models' records; no model has these names."""


@dataclass(frozen=True)
class EvalModel:
    """A model to evaluate: `name` is unique, `adapter_file` the file that the report names with its hash.

    `dial` is that of one of several models along the dial of one adapter, of which the base may be 0.
    `weights_file` is that of the base weights that a run trained, if it did.
    """

    name: str
    model: host.Sam3Image
    adapter_file: Path | None = None
    dial: float | None = None
    weights_file: Path | None = None


@dataclass(frozen=True)
class TrainedFiles:
    """Files of an adapted model: its adapter, and the base's weights where a run trained them."""

    adapter: Path | None
    weights: Path | None = None


def open_models(
    model_values: dict[str, Any], trained: Mapping[str, TrainedFiles], device: torch.device
) -> list[EvalModel]:
    """The base and the adapted models, which share the base's tensors as far as they did not train them.

    A run that trained all of a random model has no base to compare with.
    """
    adapted: list[EvalModel] = []
    untrained = model_values.get("checkpoint") == "random" and any(files.weights for files in trained.values())
    base = None if untrained and len(trained) == 1 else open_model(model_values).to(device)
    for name, files in trained.items():
        if files.weights or base is None:
            model = open_model({**model_values, "checkpoint": str(files.weights)}).to(device)
            if files.adapter:
                load_adapter(model, files.adapter)
        else:
            model = adapted_copy(base, files.adapter) if files.adapter else shared_copy(base)
        if len(trained) == 1:
            return beside_base(model, base, files.adapter, name, files.weights)
        adapted.append(EvalModel(name, model, files.adapter, weights_file=files.weights))
    return [*([EvalModel(BASE, base)] if base is not None else []), *adapted]


def is_base(model: host.Sam3Image, base: host.Sam3Image) -> bool:
    """Whether a model is its base, bit for bit: its adapter is at dial 0, and its base weights are those of `base`."""
    if adapter_config(model) is None or dial_of(model) != 0.0:
        return False
    ours, theirs = base_state_dict(model), base_state_dict(base)
    same = ours.keys() == theirs.keys() and all(ours[k].dtype == theirs[k].dtype for k in ours)
    return same and all(ours[k] is theirs[k] or torch.equal(ours[k], theirs[k]) for k in ours)


def at_dial(model: host.Sam3Image, dial: float) -> host.Sam3Image:
    """A copy of a model, of the same tensors, whose adapter is at `dial`."""
    copy = shared_copy(model).eval()
    set_dial(copy, dial)
    return copy


def along_dial(models: Sequence[EvalModel], dials: Sequence[float]) -> list[EvalModel]:
    """The base and copies of the one adapted model at each of the dials, `dial_0.25` and so on, in rising order.

    The base is dial 0 unless base weights were trained: then 0 is a model of its own.
    """
    base, adapted = models
    is_zero = is_base(at_dial(adapted.model, 0.0), base.model)
    others = sorted(set(map(float, dials)) - ({0.0} if is_zero else set()))
    files = {"adapter_file": adapted.adapter_file, "weights_file": adapted.weights_file}
    along = [EvalModel(f"dial_{dial:g}", at_dial(adapted.model, dial), dial=dial, **files) for dial in others]
    return [replace(base, dial=0.0) if is_zero else base, *along]


def beside_base(
    model: host.Sam3Image,
    base: host.Sam3Image | None = None,
    adapter_file: Path | None = None,
    name: str = "adapted",
    weights_file: Path | None = None,
) -> list[EvalModel]:
    """A model behind the base that it is compared with: `base`, or its own weights without its adapters, if it has any.

    Where the model has adjustments of features, the base's radii can be measured at their sites.
    """
    config = adapter_config(model)
    if config is not None and adapter_config(base) is None and (base is None or config.adapter == "hyperet"):
        base = watchable_base(model, base)
    adapted = EvalModel(name, model, adapter_file, weights_file=weights_file)
    return [*([EvalModel(BASE, base)] if base is not None else []), adapted]
