"""All that decides what a model answers on a split, as plain facts: equal facts, equal records."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import Split
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.task import Suite
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.fingerprint import base_fingerprint, tensors_digest
from sam3_hyperet.modeling.parameters import adapter_parameters, adapter_sites, base_state_dict
from sam3_hyperet.version import __version__

_PACKAGES = ("torch", "torchvision", "sam3", "numpy", "pycocotools", "faster-coco-eval")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"sam3_hyperet": __version__, "python": platform.python_version(), **found}


def model_facts(models: Sequence[nn.Module]) -> list[dict[str, object]]:
    """Weights, adapters, resolution and device of each model. Bases that are the same tensors are read once."""
    bases: dict[tuple[int, ...], str] = {}
    facts: list[dict[str, object]] = []
    for model in models:
        tensors = tuple(tensor.data_ptr() for tensor in base_state_dict(model).values())
        if tensors not in bases:
            bases[tensors] = base_fingerprint(model)
        facts.append(
            {
                "base": bases[tensors],
                "adapter": _adapter(model),
                "resolution": resolution(model),
                "device": next(model.parameters()).device.type,
            }
        )
    return facts


def split_facts(data: DataOptions, split: Split, suite: Suite, protocol: Protocol) -> dict[str, object]:
    """The pictures, what is asked of them, and how answers count. A file is known by its name, size and time."""
    files = [file for i in suite.positions for file in split.images.files(i)]
    if split.labels is not None and split.labels is not split.images:
        files += [file for i in suite.positions for file in split.labels.files(i)]
    facts: dict[str, object] = {f"protocol.{name}": value for name, value in protocol.deciding().items()}
    facts |= {
        "data": f"{data.name}, {split.name} split, {len(suite.positions)} of {len(split.images)} pictures",
        "vocabulary": _digest(suite.vocabulary),
        "categories": _digest(split.images.categories, split.labels.categories if split.labels else (), suite.groups),
        "files": _digest([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]),
        "annotations": _file_digest(split.coco_file) if split.coco_file else None,
    }
    return facts | {f"version.{name}": version for name, version in versions().items()}


def _adapter(model: nn.Module) -> str | None:
    """The adapters' configuration and a digest of their weights; None where none is switched on."""
    sites = adapter_sites(model).values()
    if not any(site.enabled for site in sites):
        return None
    buffers = [(name, buffer) for site in sites for name, buffer in site.named_buffers()]
    return f"{tensors_digest([*adapter_parameters(model), *buffers])} {model.hyperet_config}"


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
