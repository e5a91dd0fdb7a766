"""Base weights in any layout met in the wild, and adapters as safetensors that know which base they belong to."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sam3_hyperet.errors import CheckpointError

HUB_REPOSITORY = "facebook/sam3"
HUB_FILE = "sam3.pt"
_PREFIXES = ("detector.", "model.", "module.")


def load_base(model: nn.Module, source: str | Path) -> int:
    """Load base weights into a model that has no adapters yet, or has them: only base keys are touched.

    Accepts a bare state dict, one below "detector.", "model." or "module." (nested as they come), and one wrapped in
    {"model": …} or {"state_dict": …}; keys of SAM 3's tracker are left out.

    Args:
        source: a `.safetensors` or `torch.save` file, or "facebook/sam3" for the gated official weights.

    Returns:
        How many tensors were loaded.

    Raises:
        CheckpointError: no such file, unreadable, of another shape, or with base keys missing.
    """
    path = _download() if str(source) == HUB_REPOSITORY else Path(source)
    wanted = base_state_dict(model)
    found = _strip_prefixes(_read(path), wanted)
    missing = [key for key in wanted if key not in found]
    if missing:
        raise CheckpointError(
            f"{path}: {len(wanted) - len(missing)} of {len(wanted)} weights of the model found; missing first "
            f"{', '.join(missing[:3])}; the file has first {', '.join(list(found)[:3])}"
        )
    for key, tensor in wanted.items():
        if found[key].shape != tensor.shape:
            raise CheckpointError(f"{path}: {key} has shape {tuple(found[key].shape)}, expected {tuple(tensor.shape)}")
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(found[key])
    return len(wanted)


def save_base(model: nn.Module, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write the base weights (no adapters) as safetensors, floating-point tensors cast to `dtype` where given."""
    tensors = {
        key: tensor.detach().to(dtype or tensor.dtype).contiguous() for key, tensor in base_state_dict(model).items()
    }
    write_safetensors(tensors, path, {"format": "sam3_hyperet-base-1"})


def base_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Parameters of the base model by name, adapters left out; SAM 3 keeps no other state than derived buffers."""
    added = {name for name, _ in adapter_parameters(model)}
    return {name: parameter for name, parameter in model.named_parameters() if name not in added}


def adapter_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Name and parameter of everything that `inject` added, in the model's order."""
    prefixes = [name + "." for name, module in model.named_modules() if getattr(module, "is_adapter", False)]
    return [(name, p) for name, p in model.named_parameters() if name.startswith(tuple(prefixes))] if prefixes else []


def base_fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, shapes and values of the base weights: two models that share it are the same base."""
    digest = hashlib.sha256()
    for name, tensor in sorted(base_state_dict(model).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_safetensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write to a temporary name beside `path`, then rename: a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask grants; safetensors would leave it at 0600
        save_file(dict(tensors), temporary, metadata=dict(metadata))
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, on the CPU, and its metadata."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch.load raises nearly anything on a foreign or truncated file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint of tensors ({reason})") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors by name; found {type(content).__name__}")
    return tensors


def _strip_prefixes(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    stripped = {}
    for key, tensor in tensors.items():
        name = key
        while name not in wanted and name.startswith(_PREFIXES):
            name = name.split(".", 1)[1]
        stripped[name] = tensor
    return stripped


def _download() -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(HUB_REPOSITORY, HUB_FILE))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{HUB_REPOSITORY} is gated: ask for access on its page, then log in with `hf auth login`"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{HUB_REPOSITORY}/{HUB_FILE} cannot be fetched ({type(error).__name__}); "
            "give checkpoint=PATH of a local copy"
        ) from error
