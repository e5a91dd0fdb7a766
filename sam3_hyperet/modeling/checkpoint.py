"""Base weights: read in any layout met in the wild, written in SAM 3's own, and told apart by a fingerprint."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.files import replacing
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.parameters import INTERACTIVE, UNREAD, base_state_dict
from sam3_hyperet.modeling.tensor_files import read_state, write_safetensors

logger = logging.getLogger(__name__)

HUB_REPOSITORY = "facebook/sam3"
HUB_FILE = "sam3.pt"
_PREFIXES = ("detector.", "model.", "module.")


def load_base(model: nn.Module, source: str | Path) -> int:
    """Load all base weights, and return their number; adapters, if there are any, stay as they are.

    Accepts a bare state dict, one below "detector.", "model." or "module." (nested as they come), and one wrapped in
    {"model": …} or {"state_dict": …}. What only the tracker reads is left out, but for a model that has a SAM 2 neck or
    an interactive predictor: these get what the file has for them and may stay as they are. One line is logged: how
    many weights were loaded, and what was left out.

    `source` is a `.safetensors` or `torch.save` file, or "facebook/sam3" for the gated official weights.
    Raises CheckpointError for no such file, unreadable, of another shape, not finite, or with base keys missing.
    """
    path = _download() if str(source) == HUB_REPOSITORY else Path(source)
    wanted = base_state_dict(model)
    unread = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(UNREAD)}
    found = _named_as_in(wanted | unread, read_state(path))
    if missing := [key for key in wanted if key not in found]:
        raise CheckpointError(
            f"{path}: {len(wanted) - len(missing)} of {len(wanted)} weights of the model found; missing first "
            f"{', '.join(missing[:3])}; the file has first {', '.join(list(found)[:3])}"
        )
    loaded = wanted | {key: tensor for key, tensor in unread.items() if key in found}
    for key, tensor in loaded.items():
        check_shape(path, key, found[key], tensor)
    if odd := [key for key in loaded if not all(end.isfinite() for end in found[key].aminmax())]:
        infinite = f"{len(odd)} of {len(loaded)} weights have values that are not finite numbers, first {odd[0]}"
        raise CheckpointError(f"{path}: {infinite}; the file is damaged, or the run that wrote it has diverged")
    with torch.no_grad():
        for key, tensor in loaded.items():
            tensor.copy_(found[key])
    buffers = {name for name, _ in model.named_buffers()}
    others = Counter(key.split(".")[0] for key in found if key not in loaded and key not in buffers)
    tracker = f"; {len(loaded) - len(wanted):,} of {len(unread):,} that only the tracker reads" if unread else ""
    rest = f"; left out: {', '.join(f'{count:,} of {name}' for name, count in others.items())}" if others else ""
    logger.info(f"{path}: {len(wanted):,} of {len(wanted):,} base weights loaded{tracker}{rest}")
    return len(wanted)


def save_official(model: nn.Module, path: str | Path, carry_over: str | Path | None = None) -> None:
    """Write the model as SAM 3's own builders read it: its state dict, buffers included, below "detector.".

    Buffers have the size of the model's resolution, and SAM 3's builders accept 1008 pixels alone. `carry_over` is an
    official file of the same architecture, whose other tensors (the tracker's, the SAM 2 neck's), which SAM 3's video
    builder needs, are written along. Raises ConfigError for a model with adapters, and CheckpointError where
    `carry_over` is not an official file of this architecture and resolution.
    """
    if (config := adapter_config(model)) is not None:
        remedy = "merge them into the base first, or save them with save_adapter"
        raise ConfigError(f"the model has adapters ({config}), which SAM 3's own builder cannot load; {remedy}")
    own = {k: v.detach() for k, v in model.state_dict().items() if not k.startswith(INTERACTIVE)}  # the tracker's
    tensors = {f"detector.{name}": tensor for name, tensor in own.items()}
    if carry_over is not None:
        others = read_state(carry_over)
        if missing := [key for key in tensors if key not in others]:
            raise CheckpointError(
                f"{carry_over}: not an official file of this model; {len(tensors) - len(missing)} of {len(tensors)} "
                f"keys found, missing first {', '.join(missing[:3])}"
            )
        for key, tensor in tensors.items():
            check_shape(carry_over, key, others[key], tensor)
        tensors = others | tensors
    with replacing(path) as temporary:
        torch.save(tensors, temporary)


def save_base(model: nn.Module, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write the base weights, without adapters, as safetensors, cast to `dtype` where given."""
    base = base_state_dict(model).items()
    tensors = {key: tensor.detach().to(dtype or tensor.dtype).contiguous() for key, tensor in base}
    write_safetensors(tensors, path, {"format": "sam3_hyperet-base-1"})


def _named_as_in(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors by the model's names."""
    named = {}
    for name, tensor in tensors.items():
        while name not in wanted and name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        interactive = f"{INTERACTIVE}model.{name.removeprefix('tracker.')}"
        named[interactive if name.startswith("tracker.") and interactive in wanted else name] = tensor
    return named


def check_shape(path: str | Path, key: str, found: Tensor, expected: Tensor) -> None:
    """Raise a CheckpointError unless the file's tensor has the shape of the model's."""
    if found.shape != expected.shape:
        raise CheckpointError(f"{path}: {key} has shape {tuple(found.shape)}, expected {tuple(expected.shape)}")


def _download() -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(HUB_REPOSITORY, HUB_FILE))
    except GatedRepoError as error:
        remedy = "ask for access on its page, then log in with `hf auth login`"
        raise CheckpointError(f"{HUB_REPOSITORY} is gated: {remedy}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        found = f"{HUB_REPOSITORY}/{HUB_FILE} cannot be fetched ({type(error).__name__})"
        raise CheckpointError(f"{found}; give checkpoint=PATH of a local copy") from error
