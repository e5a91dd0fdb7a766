"""Adapter files: the added parameters alone, with their configuration and the base they belong to.

A fixed curvature or residual that differs from the configuration, as after `Curvature.set`, is kept beside them; so is
the dial, in the metadata.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.hyperbolic.curvature import Curvature
from sam3_hyperet.modeling.adapter_metadata import AdapterMetadata
from sam3_hyperet.modeling.adapter_source import FORMAT, locate_adapter
from sam3_hyperet.modeling.config import CONTROLS_OF_BASE, HyperETConfig, adapter_config
from sam3_hyperet.modeling.dial import checked_dial, dial_of, set_dial
from sam3_hyperet.modeling.encoders.inject import install_places
from sam3_hyperet.modeling.encoders.places import Place, described, places_of, places_text
from sam3_hyperet.modeling.fingerprint import VERSIONS, base_fingerprint, fingerprints, rounded_fingerprints
from sam3_hyperet.modeling.inject import check_model, inject_named, unchanged_on_error
from sam3_hyperet.modeling.parameters import adapter_parameters, base_buffers
from sam3_hyperet.modeling.tensor_files import (
    check_finite,
    check_fits,
    read_metadata,
    read_safetensors,
    write_safetensors,
)
from sam3_hyperet.modeling.wrappings import check_unwrapped, named_modules, unwrapped
from sam3_hyperet.version import __version__

logger = logging.getLogger(__name__)


def save_adapter(model: nn.Module, path: str | Path) -> None:
    """Write a model's adapters, configuration, dial and the base's fingerprints; ConfigError if it has no adapters."""
    model = unwrapped(model)
    if (config := adapter_config(model)) is None:
        raise ConfigError("the model has no adapters to save; call inject(model, config) first")
    tensors = {name: parameter.detach().contiguous() for name, parameter in adapter_parameters(model)}
    tensors |= {name: own.clone() for name, (own, configured) in _constants(model).items() if not own.equal(configured)}
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "config": json.dumps(config.to_dict()),
        "dial": repr(dial_of(model)),
        "tensors": str(len(tensors)),
        **fingerprints(model),
    }
    if places := places_of(model):
        metadata["encoder"] = places_text(places)
    write_safetensors(tensors, path, metadata)


def read_adapter_config(path: str | Path) -> HyperETConfig:
    """Configuration in the metadata of an adapter, named as for `load_adapter`."""
    return AdapterMetadata.of(path, read_metadata(locate_adapter(path))).config


def read_adapter_dial(path: str | Path) -> float:
    """Dial in an adapter file's metadata; 1 in files of earlier versions."""
    return AdapterMetadata.of(path, read_metadata(path)).dial


def write_adapter_dial(path: str | Path, dial: float) -> None:
    """Replace the dial in an adapter file; its tensors stay as they are. Raises ConfigError for what is no dial."""
    tensors, metadata = read_safetensors(path)
    AdapterMetadata.of(path, metadata)
    write_safetensors(tensors, path, {**metadata, "dial": repr(checked_dial(dial))})


def inject_from_file(model: nn.Module, path: str | Path) -> None:
    """Add adapters as an adapter file has them, at the identity. Raises CheckpointError as `load_adapter` does."""
    tensors, metadata = read_safetensors(locate_adapter(path))
    _inject(model, path, tensors, AdapterMetadata.of(path, metadata), metadata.get("tensors"))


def load_adapter(model: nn.Module, path: str | Path) -> nn.Module:
    """Load an adapter; a model without adapters gets them first.

    `path` is a file of `save_adapter`, a run's folder, or `hub:user/name[@revision]`, a repository of the Hugging Face
    hub that `push_to_hub` wrote, which is downloaded once.
    A base in another precision is accepted, with a warning, where all weights are equal after rounding to the coarser
    one. Raises ConfigError for a file of SAM 3's adapters and another model, and CheckpointError for what is no adapter
    file or was made for another base, another configuration or other shapes.
    """
    tensors, metadata = read_safetensors(locate_adapter(path))
    adapter = AdapterMetadata.of(path, metadata)
    config, places = adapter.config, adapter.places
    given, model = model, unwrapped(model)
    if adapter_config(model) is None:
        check_unwrapped(given)
    if places and isinstance(model, host.Sam3Image):
        raise CheckpointError(f"{path}: made for an encoder with {described(p.module for p in places)}, not for SAM 3")
    if not places:
        check_model(model)
        _check_base(path, metadata, model)
    with unchanged_on_error(model):
        if (present := adapter_config(model)) is None:
            _inject(model, path, tensors, adapter, metadata.get("tensors"))
        elif places != places_of(model):
            found = "the model has adapters in other modules than the file"
            raise CheckpointError(f"{path}: {found}; take them out by remove_adapter(model) first")
        elif present.differences(config):
            hint = "take out the latter by remove_adapter(model) first, or load the file onto adapted_copy(base, path)"
            raise CheckpointError(f"{path}: holds {config}, the model has {present}; {hint}")
        if places:  # by which the base is known
            _check_base(path, metadata, model)
        parameters, constants = dict(adapter_parameters(model)), _constants(model)
        _check_fit(path, tensors, parameters, {name: buffer for name, (buffer, _) in constants.items()})
    set_dial(model, 1.0)  # what is tuned is then in place, and not what an earlier dial made of it
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
        for name, (buffer, configured) in constants.items():
            buffer.copy_(tensors.get(name, configured))
    set_dial(model, adapter.dial)
    return given


def _inject(
    model: nn.Module, path: str | Path, tensors: Mapping[str, Tensor], adapter: AdapterMetadata, saved: str | None
) -> None:
    """Inject what a file's tensors are of: no pattern of the file is run, and no more memory is taken than it has.

    saved: how many tensors there were; None in files of earlier versions.
    """
    config, places = adapter.config, adapter.places
    for name, tensor in tensors.items():
        if ".lora_A." in name and config.rank not in (None, *tensor.shape[:1]):
            raise CheckpointError(f"{path}: {name} has shape {tuple(tensor.shape)}, expected the rank {config.rank}")
    if places:
        _check_memory(path, tensors, config, places)
    is_of_base = config.adapter in CONTROLS_OF_BASE
    if is_of_base and saved not in (None, str(len(tensors))):
        raise CheckpointError(f"{path}: adapter keys differ from those that were saved: {len(tensors)} of {saved:.20}")
    try:
        if places:
            install_places(model, config, places)
        else:
            inject_named(model, config, tensors if is_of_base else None)
    except ValueError as error:  # so is a ConfigError
        raise CheckpointError(f"{path}: its configuration does not fit this model ({error})") from error


def _check_memory(
    path: str | Path, tensors: Mapping[str, Tensor], config: HyperETConfig, places: Sequence[Place]
) -> None:
    """Fail where the adjustments of the places would take more memory than the file has."""
    most = max(tensor.numel() for tensor in tensors.values()) if tensors else 0
    for place in places:
        if not 0 < (place.channels**2 if config.structure == "dense" else place.channels) <= most:
            raise CheckpointError(f"{path}: {place.module} has {place.channels} channels, and no tensor is as large")


def _check_base(path: str | Path, metadata: Mapping[str, str], model: nn.Module) -> None:
    """Compare the model's base with the file's, to the bit or after rounding."""
    version = metadata.get("fingerprint", "1")
    if version not in VERSIONS:
        expected = f"expected one of {', '.join(VERSIONS)}"
        raise CheckpointError(f"{path}: has fingerprints of version {version!r}, of a newer package; {expected}")
    base = base_fingerprint(model, version)
    if metadata.get("base") == base:
        return
    compared = []
    for precision, ours in rounded_fingerprints(model, version).items():
        theirs = metadata.get(f"base.{precision}", "")
        compared += [precision] if theirs else []
        if theirs.split(" ")[0] == ours.split(" ")[0] and (theirs.endswith("exact") or ours.endswith("exact")):
            found = "made for this base in another precision; all weights are equal after rounding to"
            logger.warning("%s: %s %s", path, found, precision)
            return
    rounded = f" (also after rounding to {' or '.join(compared)})" if compared else ""
    found = f"made for the base {str(metadata.get('base'))[:12]}…, this model's is {base[:12]}…{rounded}"
    remedy = "load it onto the base weights that it was trained on"
    if version == "1":  # it covers what some layouts lack
        remedy += "; an earlier version wrote it, which also needs their file to be of the same layout"
    if version == "3" and base_buffers(model):
        remedy += "; running statistics, as of BatchNorm, count as weights and move in training mode"
    raise CheckpointError(f"{path}: {found}; {remedy}")


def _constants(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Every curvature and residual that is not learnt: its buffer, and its value by the model's configuration."""
    config = adapter_config(model)
    assert config is not None
    found = {}
    for prefix, module in named_modules(model):
        for name, buffer in module.named_buffers(recurse=False):
            if isinstance(module, Curvature):
                found[f"{prefix}.{name}"] = buffer, Curvature(config.curvature).raw.to(buffer)
            elif isinstance(module, HyperET) and config.residual is not None:
                found[f"{prefix}.{name}"] = buffer, torch.tensor(float(config.residual)).to(buffer)
    return found


def _check_fit(
    path: str | Path, tensors: dict[str, Tensor], parameters: dict[str, nn.Parameter], constants: dict[str, Tensor]
) -> None:
    """Check that the file holds every parameter, and else only constants."""
    if odd := sorted(parameters.keys() ^ (tensors.keys() - constants.keys())):
        raise CheckpointError(f"{path}: adapter keys differ from the model's, first {', '.join(odd[:3])}")
    for name, tensor in tensors.items():
        check_fits(path, name, tensor, (parameters | constants)[name])
    check_finite(path, tensors)
