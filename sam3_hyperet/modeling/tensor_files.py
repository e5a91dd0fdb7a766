"""Files of tensors: safetensors and torch.save read safely, safetensors written."""

import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.files import replacing

_UNREADABLE = (  # what torch.load raises on foreign and truncated files
    *(RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile),
)


def write_safetensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Parent folders are made."""
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask grants; safetensors would leave it at 0600
        save_file(dict(tensors), temporary, metadata=dict(metadata))
        temporary.chmod(mode)


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, on the CPU, and its metadata; CheckpointError if it cannot be read."""
    path = Path(path)
    foreign = _foreign_content(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({foreign or error})") from error


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name of a `.safetensors` or `torch.save` file, on the CPU, out of {"model": …} or {"state_dict": …}.

    Raises CheckpointError for no such file, unreadable, or without tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    foreign = _foreign_content(path)
    try:  # PyTorch's container before 1.6 is no zip file, and cannot be mapped into memory
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _UNREADABLE as error:
        raise CheckpointError(f"{path}: not a readable checkpoint of tensors ({foreign or _reason(error)})") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors by name; found {type(content).__name__}")
    return tensors


def _foreign_content(path: Path) -> str | None:
    """Description of a file that is no checkpoint by its first bytes; None of others."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, such as a log-in or error page; download the file itself, logged in"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; fetch the file that it stands for by `git lfs pull`"
    return None if start else "it is empty; download or copy it again"


def _reason(error: Exception) -> str:
    """One line of an error of torch.load."""
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        remedy = "where it comes from, save its tensors alone: torch.save(model.state_dict(), path)"
        return f"it holds an object of class {found[1]}, which is never loaded for safety; {remedy}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
