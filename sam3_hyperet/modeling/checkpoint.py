"""Base weights: read in any layout met in the wild, and written in SAM 3's own or as bare safetensors."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.files import replacing
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.layouts.base_files import locate_base, read_official
from sam3_hyperet.modeling.parameters import INTERACTIVE, TRACKER, base_state_dict, unread
from sam3_hyperet.modeling.tensor_files import check_finite, check_fits, dtype_name, write_safetensors
from sam3_hyperet.modeling.wrappings import unwrapped, without_wrappings
from sam3_hyperet.wording import count_of

logger = logging.getLogger(__name__)

_PREFIXES = ("detector.", "model.", "module.")
_NECK = "backbone.vision_backbone."
_IN_3_1 = (  # where SAM 3.1 has what SAM 3 calls otherwise, for the image model's interactive predictor
    (f"{_NECK}interactive_convs.", f"{_NECK}sam2_convs."),
    ("tracker.model.interactive_", "tracker."),
    ("tracker.model.interactivity_", "tracker."),
)
_LEFT_OUT = {  # first fitting part of a name: what it is of
    f"{_NECK}sam2_convs.": "the tracker's neck",
    f"{_NECK}interactive_convs.": "the interactive neck",
    f"{_NECK}propagation_convs.": "the tracker's neck",
    "tracker": "the tracker",
    INTERACTIVE: "the interactive predictor",
}
_BUFFERS = "the buffers, which are computed"
_ADAPTERS = "adapters"
_OF_ADAPTERS = re.compile(r"adjustment\.|\.gates\.|\.rotation\.")
"""In names of what `inject` adds; other controls rename the base's own weights, which are then missing."""


def load_base(model: nn.Module, source: str | Path) -> int:
    """Load all base weights, and return their number; adapters, if there are any, stay as they are.

    Accepts a bare state dict, one below "detector.", "model." or "module." (nested as they come), and one wrapped in
    {"model": …} or {"state_dict": …}, of SAM 3 or 3.1; and the layout of Hugging Face transformers. A weight that SAM 3
    never reads may be absent, and is then zero. What only the tracker reads is left out, but for a model that has a
    SAM 2 neck or an interactive predictor: these get what the file has for them and may stay as they are. One line is
    logged: how many weights were loaded, and what was left out. Of what SAM 3's own files do not have, it is a warning.

    `source` is a `.safetensors` or `torch.save` file, a folder with one that is published, or "facebook/sam3" or
    "facebook/sam3.1" for the gated official weights.
    Raises CheckpointError for no such file, unreadable, of another shape, not finite, or with base keys missing.
    """
    path, model = locate_base(source), unwrapped(model)
    tensors, layout = read_official(path)
    base, never_read = base_state_dict(model), unread(model)
    of_tracker = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(TRACKER)}
    found = _named_as_in(path, base | of_tracker, tensors)
    absent = [key for key in base if key not in found]
    if missing := [key for key in absent if not key.startswith(never_read)]:
        raise CheckpointError(
            f"{path}: {len(base) - len(absent)} of {len(base)} weights of the model found; missing first "
            f"{', '.join(missing[:3])}; the file has first {', '.join(list(found)[:3])}"
        )
    loaded = {key: tensor for key, tensor in (base | of_tracker).items() if key in found}
    for key, tensor in loaded.items():
        check_fits(path, key, found[key], tensor)
    check_finite(path, {key: found[key] for key in loaded})
    with torch.no_grad():
        for key, tensor in loaded.items():
            tensor.copy_(found[key])
        for key in absent:
            base[key].zero_()
    left = _left_out(model, (key for key in found if key not in loaded))
    logger.info("%s: %s", path, _loaded_in_words(found, layout, base, of_tracker, left))
    _warn_of(path, left)
    return len(base) - len(absent)


def check_without_adapters(source: str | Path) -> None:
    """Raise a CheckpointError for a file of base weights that holds adapters beside them, which `load_base` drops."""
    path = locate_base(source)
    if keys := [key for key in read_official(path)[0] if _OF_ADAPTERS.search(key)]:
        raise CheckpointError(f"{path}: {_adapters_found(keys)}")


def save_official(model: nn.Module, path: str | Path, carry_over: str | Path | None = None) -> None:
    """Write the model as SAM 3's own builders read it: its state dict, buffers included, below "detector.".

    Buffers have the size of the model's resolution, and SAM 3's builders accept 1008 pixels alone. `carry_over` is a
    published file of the same architecture in any layout, whose other tensors (the tracker's, the SAM 2 neck's), which
    SAM 3's video builder needs, are written along. Raises ConfigError for a model with adapters, and CheckpointError
    where `carry_over` is not a file of this architecture and resolution.
    """
    tensors, absent = official_tensors(model, carry_over)
    with replacing(path) as temporary, temporary.open("wb") as file:  # by its name, the file would contain that
        torch.save({key: tensor for key, tensor in tensors.items() if key not in absent}, file)


def official_tensors(model: nn.Module, carry_over: str | Path | None = None) -> tuple[dict[str, Tensor], set[str]]:
    """The model's and the carried over tensors by official names, and which of the model's `carry_over` has not.

    These are such as SAM 3 never reads. Raises as `save_official` does.
    """
    if (config := adapter_config(model)) is not None:
        remedy = "merge them into the base first, or save them with save_adapter"
        raise ConfigError(f"the model has adapters ({config}), which SAM 3's own builder cannot load; {remedy}")
    own = {without_wrappings(name): tensor for name, tensor in unwrapped(model).state_dict().items()}
    # without the tracker's; on the CPU, as whoever reads the file may have no other device
    of_detector = {k: v.detach().cpu() for k, v in own.items() if not k.startswith(INTERACTIVE)}
    tensors = {f"detector.{name}": tensor for name, tensor in of_detector.items()}
    if carry_over is None:
        return tensors, set()
    others, _ = read_official(locate_base(carry_over))
    buffers = [without_wrappings(name) for name, _ in unwrapped(model).named_buffers()]
    optional = tuple(f"detector.{name}" for name in (*unread(model), *TRACKER, *buffers))
    absent = {key for key in tensors if key not in others}
    if missing := [key for key in absent if not key.startswith(optional)]:
        raise CheckpointError(
            f"{carry_over}: not an official file of this model; {len(tensors) - len(absent)} of {len(tensors)} "
            f"keys found, missing first {', '.join(sorted(missing)[:3])}"
        )
    for key in tensors.keys() - absent:
        check_fits(carry_over, key, others[key], tensors[key])
    return others | tensors, absent - {f"detector.{name}" for name in buffers}


def save_base(
    model: nn.Module, path: str | Path, dtype: torch.dtype | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the base weights, without adapters, as safetensors, cast to `dtype` where given; `metadata` goes along."""
    base = base_state_dict(model).items()
    tensors = {key: tensor.detach().to(dtype or tensor.dtype).contiguous() for key, tensor in base}
    write_safetensors(tensors, path, {"format": "sam3_hyperet-base-1", **(metadata or {})})


def _named_as_in(path: Path, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors by the model's names. Raises CheckpointError where two are of one name."""
    named, keys = {}, dict[str, str]()
    for key, tensor in tensors.items():
        name = key
        while name not in wanted and name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        in_3 = name
        for former, present in _IN_3_1:
            in_3 = present + name.removeprefix(former) if name.startswith(former) else in_3
        interactive = in_3.replace("tracker.", f"{INTERACTIVE}model.", 1) if in_3.startswith("tracker.") else name
        candidates = (name, in_3, interactive)
        name = next((one for one in candidates if one in wanted), name)
        if name in named and name in wanted:
            raise CheckpointError(f"{path}: has {name} twice, as {keys[name]} and as {key}; expected one of them")
        named[name], keys[name] = tensor, key
    return named


def _loaded_in_words(
    found: Mapping[str, Tensor],
    layout: str,
    base: Mapping[str, Tensor],
    of_tracker: Mapping[str, Tensor],
    left: Mapping[str, Sequence[str]],
) -> str:
    """What of the model's weights was found, and what of a file was left out, in one line."""
    absent, tensors = [key for key in base if key not in found], {**base, **of_tracker}
    parts = [f"{len(base) - len(absent):,} of {len(base):,} base weights loaded"]
    parts[0] += " from transformers' layout" if layout == "transformers" else ""
    pairs = [(found[key], tensor) for key, tensor in tensors.items() if key in found]
    if stored := {dtype_name(one) for one, tensor in pairs if one.dtype != tensor.dtype}:
        parts[0] += f", stored as {', '.join(sorted(stored))}"
    if absent:
        parts.append(f"set to zero, for SAM 3 never reads them: {', '.join(sorted(set(map(_module, absent))))}")
    if of_tracker:
        parts.append(f"{sum(key in found for key in of_tracker):,} of {len(of_tracker):,} that only the tracker reads")
    if left:
        parts.append(f"left out: {', '.join(f'{len(keys):,} of {name}' for name, keys in left.items())}")
    return "; ".join(parts)


def _left_out(model: nn.Module, keys: Iterable[str]) -> dict[str, list[str]]:
    """Tensors that were not loaded, by what they are of in words: of an unknown one the first part of its name."""
    buffers = {without_wrappings(name) for name, _ in model.named_buffers()}
    found: dict[str, list[str]] = {}
    for key in keys:
        if _OF_ADAPTERS.search(key):
            owner = _ADAPTERS
        elif key in buffers:
            owner = _BUFFERS
        else:
            named = (owner for part, owner in _LEFT_OUT.items() if key.startswith(part))
            owner = next(named, key.partition(".")[0])
        found.setdefault(owner, []).append(key)
    return found


def _warn_of(path: Path, left: Mapping[str, Sequence[str]]) -> None:
    """Warn of tensors that SAM 3's own files have not."""
    expected = {_ADAPTERS, _BUFFERS, *_LEFT_OUT.values()}
    if keys := left.get(_ADAPTERS):
        logger.warning("%s: %s", path, _adapters_found(keys))
    if odd := [key for owner, keys in left.items() if owner not in expected for key in keys]:
        found = f"{count_of(len(odd), 'weight')} that the model has no place for, first {odd[0]}"
        logger.warning("%s: %s; they are left out: check that the file is of this model", path, found)


def _adapters_found(keys: Sequence[str]) -> str:
    """That a file of base weights holds adapters, in words, with what opens them."""
    found = f"holds {count_of(len(keys), 'weight')} of adapters beside the base, first {keys[0]}"
    opening = "hy.adapted_model(name, FILE, hyperet=…, adapter=FILE) opens both, hy.save_adapter then writes a file"
    return f"{found}; as base weights it is opened without them; {opening} for adapter="


def _module(key: str) -> str:
    """Name of a weight without its last part, but for one that is a module's own."""
    return key.rpartition(".")[0] if key.endswith((".weight", ".bias")) else key
