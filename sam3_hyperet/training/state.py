"""Saved state of a run, with a checksum: trained parameters, optimizer, random generators, progress."""

import hashlib
import logging
import os
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.files import replacing
from sam3_hyperet.modeling.tensor_files import check_fits, one_line
from sam3_hyperet.reading import regular_file
from sam3_hyperet.training.distributed import load_optimizer_state, split_as
from sam3_hyperet.wording import count_of

logger = logging.getLogger(__name__)

_FORMAT = 3
_DIGEST_SIZE = 32
_PARTS = {"trained": dict, "optimizer": dict, "progress": dict, "generators": list}


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Mapping[str, Any],
    progress: Mapping[str, Any],
    generators: Sequence[Mapping[str, Tensor]] | None = None,
    *,
    is_of_new_step: bool = True,
) -> None:
    """Write the state to a temporary name, with its checksum behind it, flush it to the disk, then rename.

    The state that was there before stays beside it, as `previous_state(path)`, if it is of an earlier step.

    `progress` has counters, and what else has a `state_dict`, by name. `generators` are those of `random_generators`;
    None for those of this one process, on the CPU.
    """
    state = {
        "format": _FORMAT,
        "trained": {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad},
        "optimizer": optimizer.state_dict() if isinstance(optimizer, torch.optim.Optimizer) else optimizer,
        "progress": dict(progress),
        "generators": generators or random_generators(torch.device("cpu")),
    }
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            written = _Digested(file)
            torch.save(state, written)  # type: ignore[arg-type]  # of a file, it calls write and flush alone
            file.write(written.digest.digest())
            file.flush()
            os.fsync(file.fileno())
        if is_of_new_step and path.is_file():
            with replacing(previous_state(path)) as second:  # at no moment is there no state under its name
                try:
                    os.link(path, second)
                except OSError:  # not every file system has hard links
                    shutil.copyfile(path, second)


def previous_state(path: Path) -> Path:
    """Where the state from before the last save is kept."""
    return path.with_name(f"previous_{path.name}")


def read_state(path: Path, world: int = 1) -> dict[str, Any]:
    """What `save_state` wrote, or what it wrote the time before, where that cannot be read or its checksum is wrong.

    Raises CheckpointError: neither can be read, or the state is of another number of processes than `world`.
    """
    try:
        state = _verified(path)
    except CheckpointError as error:
        if not previous_state(path).is_file():
            raise
        logger.warning("%s; going on from %s", error, previous_state(path))
        state = _verified(previous_state(path))
    if len(state["generators"]) != world:
        found = f"{path}: state of {count_of(len(state['generators']), 'process')}, but this run has {world}"
        raise CheckpointError(f"{found}; expected as many as before (train.devices × train.nodes), or another run_dir")
    return state


def restore_state(
    path: Path, state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, rank: int = 0
) -> None:
    """Put a state that `read_state` found at `path` into process `rank` of a run of the same configuration.

    Raises a CheckpointError for another set of trained parameters.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if odd := sorted(parameters.keys() ^ state["trained"].keys()):
        raise CheckpointError(f"{path}: trains other parameters than this run, first {', '.join(odd[:3])}")
    for name, tensor in state["trained"].items():
        check_fits(path, name, tensor, parameters[name])
    with torch.no_grad():
        for name, tensor in state["trained"].items():
            parameters[name].copy_(split_as(tensor, parameters[name]))
    try:
        load_optimizer_state(optimizer, state["optimizer"])
        set_random_generators(state["generators"][rank])
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        found = f"its optimizer or random generators are not of this run ({type(error).__name__})"
        raise CheckpointError(f"{path}: {found}; use resume=never") from error


def set_random_generators(states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    *numbers, position = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.asarray(numbers, np.uint32), position, 0, 0.0))  # noqa: NPY002
    version, _, gauss = random.getstate()
    random.setstate((version, tuple(states["python"].tolist()), gauss))


def _verified(path: Path) -> dict[str, Any]:
    regular_file(path, CheckpointError)
    try:
        with path.open("rb") as file:
            expected = _digest(file, path.stat().st_size - _DIGEST_SIZE)
            is_whole = file.read() == expected
        # mapped: the processes of a node share its pages
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True) if is_whole else {}
    except Exception as error:  # torch.load raises nearly anything on a foreign file
        found = f"{type(error).__name__}: {one_line(error)}"
        raise CheckpointError(f"{path}: not a readable training state ({found})") from error
    if not is_whole:
        raise CheckpointError(f"{path}: its checksum is wrong: the file is damaged, or no training state")
    if not isinstance(state, dict) or (found := state.get("format", 1)) != _FORMAT:
        found = found if isinstance(state, dict) else type(state).__name__
        why = "a state of another version of this package; use resume=never"
        raise CheckpointError(f"{path}: format {found!r:.40}, expected {_FORMAT}: {why}")
    for name, kind in _PARTS.items():
        if not isinstance(state.get(name), kind):
            raise CheckpointError(f"{path}: its {name} are {state.get(name)!r:.40}; expected a state of this package")
    trained = state["trained"]
    if odd := [k for k, v in trained.items() if not isinstance(k, str) or not isinstance(v, Tensor)]:
        raise CheckpointError(f"{path}: what was trained has the entry {odd[0]!r:.40}, expected tensors by name")
    return state


class _Digested:
    """A file to be written from its beginning to its end, and the checksum of what has been written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.blake2b(digest_size=_DIGEST_SIZE)

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _digest(file: BinaryIO, size: int) -> bytes:
    """Checksum of the first `size` bytes; the file is then behind them."""
    digest = hashlib.blake2b(digest_size=_DIGEST_SIZE)
    file.seek(0)
    while size > 0 and (chunk := file.read(min(size, 1 << 24))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.digest()


def random_generators(device: torch.device, world: int = 1) -> list[Mapping[str, Tensor]]:
    """The states of torch's, a CUDA device's, numpy's and Python's random generators in each of `world` processes.

    All processes must call it at once; the list is in the order of their ranks.
    """
    of_numpy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*of_numpy["key"].tolist(), of_numpy["pos"]]),
        "python": torch.tensor(random.getstate()[1]),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    everyone: list[Mapping[str, Tensor]] = [states] * world
    if world > 1:
        torch.distributed.all_gather_object(everyone, states)
    return everyone
