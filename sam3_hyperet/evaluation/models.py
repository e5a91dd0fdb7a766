"""The models of a comparison: the base, and what adapter files and training runs make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.comparison import BASE, Variant
from sam3_hyperet.modeling.adapter_file import load_adapter, read_adapter_config
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.copies import adapted_copy, shared_copy
from sam3_hyperet.modeling.opening import open_model
from sam3_hyperet.modeling.parameters import adapter_sites
from sam3_hyperet.training.run_folder import ADAPTER, WEIGHTS

_METRICS_BEGIN_WITH = ("difference", "params", "radius", "normalized_radius", "speed", "train", "forgetting")


@dataclass(frozen=True)
class Source:
    """Where an adapted model comes from: an adapter file, and the base's weights where a run trained them, too."""

    name: str
    adapter: Path | None
    weights: Path | None = None


def find_sources(adapters: Sequence[Path], runs: Sequence[Path], *, data: str, use_weights: bool) -> list[Source]:
    """All adapted models, by names that tell them apart: those of the adapter files or, without any, of the runs.

    Args:
        data: the name of the data set, which no model may have.
        use_weights: take the base weights that a run trained, if it did.

    Raises:
        ConfigError: adapter files together with several runs.
    """
    if adapters and len(runs) > 1:
        raise ConfigError(f"adapter= and {len(runs)} runs; expected adapter files, with one run at most, or runs")
    weights = [folder / WEIGHTS["best"] for folder in runs]
    trained = [file if use_weights and file.is_file() else None for file in weights]
    taken = {BASE, data, *_METRICS_BEGIN_WITH}
    if adapters:
        names = [file.parent.name if file.name in ADAPTER.values() else file.stem for file in adapters]
        of_run = trained[0] if trained else None
        return [Source(_unique(name, taken), file, of_run) for name, file in zip(names, adapters, strict=True)]
    files = [folder / ADAPTER["best"] for folder in runs]
    return [
        Source(_unique(folder.resolve().name, taken), file if file.is_file() else None, own)
        for folder, file, own in zip(runs, files, trained, strict=True)
        if own or file.is_file()
    ]


def open_variants(model_values: dict[str, Any], sources: Sequence[Source], device: torch.device) -> list[Variant]:
    """The base and the adapted models, which share the base's tensors as far as they did not train them.

    A run that trained all of a random model has no base to compare with.
    """
    untrained = model_values.get("checkpoint") == "random" and any(source.weights for source in sources)
    if untrained and len(sources) == 1:
        (source,) = sources
        return with_base(_trained(model_values, source, device), adapter=source.adapter, name=source.name)
    base = open_model(model_values).to(device)
    variants = [Variant(BASE, base)]
    for source in sources:
        model = _trained(model_values, source, device) if source.weights else _adapted(base, source.adapter)
        variants.append(Variant(source.name, model, source.adapter))
    return variants


def with_base(
    model: host.Sam3Image, base: host.Sam3Image | None = None, adapter: Path | None = None, name: str = "adapted"
) -> list[Variant]:
    """A model behind the base that it is compared with: `base`, or itself with its adapters off, if it has any."""
    if base is None and adapter_config(model) is not None:
        base = shared_copy(model)
        for site in adapter_sites(base).values():
            site.enabled = False
    return [*([Variant(BASE, base)] if base is not None else []), Variant(name, model, adapter)]


def _adapted(base: host.Sam3Image, adapter: Path | None) -> host.Sam3Image:
    if adapter is None:
        return shared_copy(base)
    model = adapted_copy(base, read_adapter_config(adapter))
    load_adapter(model, adapter)
    return model


def _trained(model_values: dict[str, Any], source: Source, device: torch.device) -> host.Sam3Image:
    model = open_model({**model_values, "checkpoint": str(source.weights)}).to(device)
    if source.adapter:
        load_adapter(model, source.adapter)
    return model


def _unique(name: str, taken: set[str]) -> str:
    """`name`, numbered where it is taken; it becomes so."""
    chosen, number = name or "adapter", 2
    while chosen in taken:
        chosen, number = f"{name or 'adapter'}-{number}", number + 1
    taken.add(chosen)
    return chosen
