"""The state that a run needs to go on: what trains, optimizer, schedule, random generators, counters."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sam3_hyperet.errors import CheckpointError

FILE = "state.pt"


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    progress: dict[str, float],
) -> None:
    """Write the state to a temporary name, flush it to the disk, then rename."""
    state = {
        "trained": {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad},
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "progress": progress,
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002
        "numpy_position": np.random.get_state()[2],  # noqa: NPY002
        "python_rng": torch.tensor(random.getstate()[1]),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> dict[str, float]:
    """Restore what `save_state` wrote into a run of the same configuration.

    Returns:
        The progress counters.

    Raises:
        CheckpointError: unreadable, or another set of trained parameters.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        trained = state["trained"]
    except Exception as error:  # torch.load raises nearly anything on a foreign or truncated file
        raise CheckpointError(f"{path}: not a readable training state ({type(error).__name__}: {error})") from error
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if parameters.keys() != trained.keys():
        odd = sorted(parameters.keys() ^ trained.keys())
        raise CheckpointError(f"{path}: trains other parameters than this run, first {', '.join(odd[:3])}")
    with torch.no_grad():
        for name, tensor in trained.items():
            parameters[name].copy_(tensor)
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["torch_rng"])
    np.random.set_state(("MT19937", state["numpy_rng"].numpy().astype(np.uint32), state["numpy_position"]))  # noqa: NPY002
    version, _, gauss = random.getstate()
    random.setstate((version, tuple(state["python_rng"].tolist()), gauss))
    return dict(state["progress"])
