"""What an adapter file holds: its configuration, sites, gates, parameters, dial and base."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError, safe_open

from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.modeling.adapter_metadata import AdapterMetadata
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.config_words import geometry_in_words, sites_in_words, structure_in_words
from sam3_hyperet.reading import foreign_content, regular_file

PACKAGED_BASES = {
    "tiny": "28f44828d6d8d9e2a78e90eab5cc5714cf15601d5e97300fbef3bac2a55b0444",
    "tiny_levels": "d65c6b35f8bdbbe739d4becb3dc738062dc8eb46bae5a79f7d6cbedc53c67ccf",
}
"""Fingerprints of the bases in the package, by the model's name."""


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter file, read without a model.

    shapes: of its tensors, by name. base: fingerprint of the base weights. encoder: modules that are adjusted, of an
    adapter for another encoder than SAM 3's.
    """

    path: Path
    config: HyperETConfig
    shapes: dict[str, tuple[int, ...]]
    dial: float
    base: str
    version: str
    encoder: tuple[str, ...] = ()

    @cached_property
    def parameters(self) -> int:
        """Number of values in the file."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def gates(self) -> int:
        """Number of gates by the prompt."""
        return sum(name.endswith(".gate.weight") for name in self.shapes)

    @property
    def base_name(self) -> str | None:
        """Name of the packaged model that the base is, if it is one."""
        return next((name for name, digest in PACKAGED_BASES.items() if digest == self.base), None)

    @property
    def scheme(self) -> str:
        """The sites with the letters of their schemes."""
        return sites_in_words(self.config)

    @property
    def geometry(self) -> str:
        """Structure, gate and geometry with its c; a control's own name."""
        if self.config.adapter != "hyperet":
            return f"{self.config.adapter}, a control"
        return f"{structure_in_words(self.config)}; {geometry_in_words(self.config)}"


def read_adapter_info(path: str | Path) -> AdapterInfo:
    """Read an adapter file's header. Raises CheckpointError for what is no adapter file."""
    path = regular_file(path, CheckpointError)
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        found = foreign_content(path) or " ".join(str(error).split())
        raise CheckpointError(f"{path}: not a readable safetensors file ({found})") from error
    adapter = AdapterMetadata.of(path, metadata)
    modules = tuple(place.module for place in adapter.places)
    version = metadata.get("version", "unknown")
    return AdapterInfo(path, adapter.config, shapes, adapter.dial, metadata.get("base", ""), version, modules)
