"""The processes of a run, by Lightning Fabric."""

import logging
import warnings
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.utilities.warnings import PossibleUserWarning

from sam3_hyperet.errors import ConfigError


def make_fabric(blamed: str, **options: Any) -> Fabric:
    """Fabric with these options of its own. Raises ConfigError if it refuses them, which names the `blamed` ones."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # of precision, a run prints its own line
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The `srun` command is available", PossibleUserWarning)  # but not wanted
            return Fabric(**options)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{blamed}: {error}") from error
