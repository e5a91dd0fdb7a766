"""Folder of a training run: its weights, its state, and which files are the run's own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.files import Manifest, remove_leftovers
from sam3_hyperet.modeling.adapter_file import load_adapter, save_adapter
from sam3_hyperet.modeling.checkpoint import load_base, save_base
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.parameters import base_state_dict
from sam3_hyperet.training.run_files import (
    ADAPTER,
    CONFIG_FILE,
    EVALUATION_FILES,
    HISTORY_FILE,
    REHEARSAL_FILE,
    STATE_FILE,
    VERSIONS_FILE,
    WEIGHTS,
)
from sam3_hyperet.training.state import previous_state

_WEIGHTS = (*ADAPTER.values(), *WEIGHTS.values())
_RESULTS = (*_WEIGHTS, STATE_FILE, previous_state(Path(STATE_FILE)).name, HISTORY_FILE, REHEARSAL_FILE, "tensorboard")
_NAMES = (*_RESULTS, CONFIG_FILE, VERSIONS_FILE, "wandb", "wandb_id")


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and the saved state that it goes on from, if any."""

    path: Path
    resume: Path | None = None

    @property
    def has_weights(self) -> bool:
        """Whether an earlier run has left weights."""
        return any((self.path / name).is_file() for name in _WEIGHTS)

    def check(self, *, evaluate: bool) -> None:
        """Raise a ConfigError if a name that the run needs is taken by a file that no run has written."""
        Manifest(self.path).check(*_NAMES, *(EVALUATION_FILES if evaluate else ()))

    def prepare(self) -> None:
        """Make the folder ready: leftovers of killed processes are removed and, unless resumed, all earlier results."""
        manifest = Manifest(self.path)
        remove_leftovers(self.path)
        manifest.claim(*_NAMES)
        if not self.resume:
            records = [name for name in manifest.names if name.startswith("records/")]
            manifest.remove(*_RESULTS, *EVALUATION_FILES, *records)

    def save(self, model: host.Sam3Image, which: str) -> None:
        """Write what has trained, as the "best" or the "last": adapters, and the base's weights where they train."""
        if adapter_config(model) is not None:
            save_adapter(model, self.path / ADAPTER[which])
        if base_trains(model):
            save_base(model, self.path / WEIGHTS[which])
        else:
            (self.path / WEIGHTS[which]).unlink(missing_ok=True)  # of a later stage, before the run was killed

    def load_best(self, model: host.Sam3Image, base: Callable[[], host.Sam3Image]) -> None:
        """Bring back the best step; `base` builds the model that the run began with, whose weights may be the best."""
        if (self.path / WEIGHTS["best"]).is_file():
            load_base(model, self.path / WEIGHTS["best"])
        elif base_trains(model):
            before = base_state_dict(base())
            with torch.no_grad():
                for name, parameter in base_state_dict(model).items():
                    parameter.copy_(before[name])
        if adapter_config(model) is not None:
            load_adapter(model, self.path / ADAPTER["best"])


def base_trains(model: host.Sam3Image) -> bool:
    """Whether weights of the base train, in the present stage."""
    return any(p.requires_grad for p in base_state_dict(model).values())


def find_run(path: Path, resume: str) -> RunFolder:
    """The folder of a run with the state that `resume` ("auto", "never" or a file) chooses."""
    state = path / STATE_FILE if resume in ("auto", "never") else Path(resume)
    if resume == "never" or (resume == "auto" and not state.is_file()):
        return RunFolder(path)
    if not state.is_file():
        raise CheckpointError(f"resume={resume}: no such file; expected auto, never or a saved state")
    return RunFolder(path, state)
