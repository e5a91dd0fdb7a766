"""Files of tensors: safetensors and torch.save read safely, safetensors written."""

import logging
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.files import replacing
from sam3_hyperet.reading import foreign_content, regular_file

logger = logging.getLogger(__name__)

_UNREADABLE = (  # what torch.load raises on foreign and truncated files
    *(RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, ArithmeticError, MemoryError),
)
_LARGEST = 2**30  # bytes of a tensor; SAM 3 has one of 0.2 GB
_ZIP = b"PK\x03\x04"
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def write_safetensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Parent folders are made."""
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask grants; safetensors would leave it at 0600
        save_file(dict(tensors), temporary, metadata=dict(metadata))
        temporary.chmod(mode)


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, on the CPU, and its metadata; CheckpointError if it cannot be read."""
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file; CheckpointError if it cannot be read."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    path = regular_file(path, CheckpointError)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        found = (
            "it is a file of torch.save; call it .pt"
            if _starts_with(path, _ZIP)
            else foreign_content(path) or one_line(error)
        )
        raise CheckpointError(f"{path}: not a readable safetensors file ({found})") from error


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors or `torch.save` file, on the CPU, out of {"model": …} or {"state_dict": …}.

    Which of the two it is follows from its content. Raises CheckpointError for no such file, unreadable, without
    tensors by name, an adapter file, and for tensors that are no plain numbers in memory.
    """
    path = regular_file(path, CheckpointError)
    if _is_safetensors(path):
        tensors, metadata = read_safetensors(path)
        if metadata.get("format", "").startswith("sam3_hyperet-adapter"):
            raise CheckpointError(f"{path}: holds adapters, expected base weights; adapters are given as adapter=")
    else:
        tensors = _state_dict(path, _unpickled(path))
    size = path.stat().st_size
    for key, tensor in tensors.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{path}: has the key {key!r:.60}, expected names, as model.state_dict() has them")
        if odd := _oddity(tensor):
            raise CheckpointError(f"{path}: {key} is a {odd} tensor, expected plain numbers; save it as such")
        if tensor.nbytes > max(size, _LARGEST):  # one number, repeated without end
            raise CheckpointError(f"{path}: {key} has shape {tuple(tensor.shape)}, for which the file is too small")
    return tensors


def check_fits(path: str | Path, key: str, found: Tensor, expected: Tensor) -> None:
    """Raise a CheckpointError unless a file's tensor has the shape of the model's, and floating-point numbers if it."""
    if found.shape != expected.shape:
        raise CheckpointError(f"{path}: {key} has shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    if expected.is_floating_point() and found.dtype not in FLOATS:
        why = "quantised weights need scales that are not read; " if "float8" in str(found.dtype) else ""
        expected_names = ", ".join(map(dtype_name, FLOATS))
        raise CheckpointError(f"{path}: {key} is {dtype_name(found)}; {why}expected {expected_names}")


def check_finite(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise a CheckpointError unless all values are finite, as 32-bit numbers as well."""
    ends = {key: tensor.aminmax() for key, tensor in tensors.items() if tensor.numel()}
    if odd := [key for key, pair in ends.items() if not all(end.float().isfinite() for end in pair)]:
        infinite = f"{len(odd)} of {len(tensors)} weights have values that are not finite numbers, first {odd[0]}"
        raise CheckpointError(f"{path}: {infinite}; the file is damaged, or the run that wrote it has diverged")


def dtype_name(tensor: Tensor | torch.dtype) -> str:
    """Name of a tensor's type of numbers, such as "bfloat16"."""
    return str(tensor if isinstance(tensor, torch.dtype) else tensor.dtype).removeprefix("torch.")


def _state_dict(path: Path, content: object) -> dict[str, Tensor]:
    """The tensors in what `torch.save` wrote."""
    for wrapper in ("model", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            if others := [f"{key!r:.40}" for key in content if key != wrapper]:
                logger.info(f"{path}: the weights are those below {wrapper!r}; not read: {', '.join(others[:5])}")
            content = content[wrapper]
    entries = content if isinstance(content, Mapping) else {}
    tensors = {key: tensor for key, tensor in entries.items() if isinstance(tensor, Tensor)}
    if not tensors:
        keys = f" with the keys {', '.join(f'{key!r:.40}' for key in list(entries)[:5])}" if entries else ""
        found = f"holds no tensors by name; found {type(content).__name__}{keys}"
        raise CheckpointError(f"{path}: {found}; expected a state dict, by itself or below 'model' or 'state_dict'")
    return tensors


def _unpickled(path: Path) -> Any:
    """What `torch.save` wrote, loaded without running any code of the file, and mapped into memory where it can be."""
    if is_zip := zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as file:
                is_packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist())
        except _UNREADABLE as error:
            raise CheckpointError(f"{path}: not a readable checkpoint of tensors ({one_line(error)})") from error
        if is_packed:
            remedy = "expected what torch.save writes, or that file out of this archive"
            raise CheckpointError(
                f"{path}: not a readable checkpoint of tensors (it is a compressed archive); {remedy}"
            )
    try:  # PyTorch's container before 1.6 is no zip file, and cannot be mapped into memory
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except _UNREADABLE as error:
        found = foreign_content(path) or _reason(error)
        raise CheckpointError(f"{path}: not a readable checkpoint of tensors ({found})") from error


def _is_safetensors(path: Path) -> bool:
    """Whether a file is called `.safetensors`, as torch.load decides as well, or begins as these do."""
    with path.open("rb") as file:
        length, start = int.from_bytes(file.read(8), "little"), file.read(1)
    return path.suffix == ".safetensors" or (start == b"{" and length < path.stat().st_size)


def _starts_with(path: Path, content: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(content)) == content


def _oddity(tensor: Tensor) -> str:
    """What makes a tensor's values no plain numbers in memory; "" for others."""
    if tensor.is_nested:
        return "nested"
    if tensor.is_quantized:
        return "quantised"
    if tensor.layout != torch.strided:
        return "sparse"
    return "meta" if tensor.is_meta else ""


def _reason(error: Exception) -> str:
    """One line of an error of torch.load."""
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        remedy = "where it comes from, save its tensors alone: torch.save(model.state_dict(), path)"
        return f"it holds an object of class {found[1]}, which is never loaded for safety; {remedy}"
    return one_line(text.partition("WeightsUnpickler error: ")[2] or text or type(error).__name__)


def one_line(text: object) -> str:
    """The first line of an error's message, shortened."""
    return f"{next(iter(str(text).strip().splitlines()), ''):.200}"
