"""The processes of a run, by Lightning Fabric."""

import logging
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from lightning_fabric import Fabric
from lightning_fabric.utilities.warnings import PossibleUserWarning

from sam3_hyperet.errors import ConfigError, UserError

T = TypeVar("T")


def make_fabric(blamed: str, **options: Any) -> Fabric:
    """Fabric with these options of its own. Raises ConfigError if it refuses them, which names the `blamed` ones."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # of precision, a run prints its own line
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The `srun` command is available", PossibleUserWarning)  # but not wanted
            return Fabric(**options)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{blamed}: {error}") from error


def from_first(fabric: Fabric, action: Callable[[], T]) -> T:
    """Result of an action of the first process, in all processes.

    Its user error ends the other processes, too, and without a word: the first one prints it.
    """
    outcome: T | UserError | OSError | None = None
    if fabric.is_global_zero:
        try:
            outcome = action()
        except (UserError, OSError) as error:
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, UserError | OSError):
        raise outcome if fabric.is_global_zero else SystemExit(1)
    return outcome  # type: ignore[return-value]
