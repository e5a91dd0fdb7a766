"""A training run's folder: what is kept of the model there, and the state that a run goes on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.adapter_file import load_adapter, save_adapter
from sam3_hyperet.modeling.checkpoint import load_base, save_base
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.parameters import base_state_dict
from sam3_hyperet.training.state import FILE as STATE_FILE

WEIGHTS = {"best": "weights.safetensors", "last": "weights_last.safetensors"}
_DECIDING_TRAIN = tuple(
    f"train.{name}" for name in ("max_steps", "batch_size", "accumulate", "prompts_at_once", "devices", "nodes")
)
_DECIDING = ("model", "hyperet", "stage", "data", "loss", "optim", "radius", "seed", *_DECIDING_TRAIN)
ADAPTER = {"best": "adapter.safetensors", "last": "adapter_last.safetensors"}


def save_trained(model: host.Sam3Image, run_dir: Path, which: str) -> None:
    """Write what has trained, as the "best" or the "last": the adapters, and the base's weights where they train."""
    if adapter_config(model) is not None:
        save_adapter(model, run_dir / ADAPTER[which])
    if base_trains(model):
        save_base(model, run_dir / WEIGHTS[which])
    else:
        (run_dir / WEIGHTS[which]).unlink(missing_ok=True)  # of an earlier run in this folder


def base_trains(model: host.Sam3Image) -> bool:
    """Whether weights of the base train, in the present stage."""
    return any(p.requires_grad for p in base_state_dict(model).values())


def load_best(model: host.Sam3Image, run_dir: Path, base: Callable[[], host.Sam3Image]) -> None:
    """Bring back the best step.

    Args:
        base: builds the model that the run began with; its weights are the best step's where none were written.
    """
    if (run_dir / WEIGHTS["best"]).is_file():
        load_base(model, run_dir / WEIGHTS["best"])
    elif base_trains(model):
        before = base_state_dict(base())
        with torch.no_grad():
            for name, parameter in base_state_dict(model).items():
                parameter.copy_(before[name])
    if adapter_config(model) is not None:
        load_adapter(model, run_dir / ADAPTER["best"])


def start_of_run(values: dict[str, object]) -> tuple[Path, Path | None]:
    """The folder of the run that a configuration describes, and the state there to go on from, if there is one."""
    run_dir = Path(values["run_dir"])
    resume = _state_to_resume(values["resume"], run_dir)
    if resume:
        _check_same_run(values, resume)
    return run_dir, resume


def _state_to_resume(resume: str, run_dir: Path) -> Path | None:
    state = run_dir / STATE_FILE
    if resume == "never":
        return None
    if resume == "auto":
        return state if state.is_file() else None
    if not Path(resume).is_file():
        raise CheckpointError(f"resume={resume}: no such file; expected auto, never or a saved state")
    return Path(resume)


def _check_same_run(values: dict[str, object], state: Path) -> None:
    """A state belongs to the configuration beside it; going on with another one would be neither run."""
    file = state.parent / "config.yaml"
    if not file.is_file():
        return
    before = OmegaConf.load(file)
    for key in _DECIDING:
        now, then = OmegaConf.select(OmegaConf.create(values), key), OmegaConf.select(before, key)
        if now == then:
            continue
        if isinstance(now, DictConfig) and isinstance(then, DictConfig):
            odd = (name for name in {**now, **then} if (now.get(name) or None) != (then.get(name) or None))
            if (name := next(odd, None)) is None:  # an option that was not there yet, left empty
                continue
            key, now, then = f"{key}.{name}", now.get(name), then.get(name)
        raise ConfigError(
            f"resume: {key} is {now}, but {then} in the run of {state}; use another run_dir or resume=never"
        )


def say_what_is_next(console: Console, run_dir: Path) -> None:
    """Where the results are, and what to run with them."""
    files = [name for name in (ADAPTER["best"], WEIGHTS["best"], "report.html") if (run_dir / name).is_file()]
    console.print("wrote " + ", ".join(str(run_dir / name) for name in files), markup=False, soft_wrap=True)
    if (run_dir / ADAPTER["best"]).is_file():
        command = f"python tools/predict.py adapter={run_dir / ADAPTER['best']} images=… prompts=[…]"
        console.print(f"next: {command}", markup=False, soft_wrap=True)  # one line, to be copied
