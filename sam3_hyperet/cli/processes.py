"""The processes of a run, by Lightning Fabric."""

import logging
import warnings
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.warnings import PossibleUserWarning

from sam3_hyperet.errors import ConfigError, UserError
from sam3_hyperet.wording import count_of


def launched(blamed: str, *, devices: int, nodes: int, **options: Any) -> Fabric:
    """Fabric with these options of its own, in a process for each device of each node, which all go on from here.

    Raises ConfigError if it refuses the options, which names the `blamed` ones, and where Slurm has started another
    number of processes.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # of precision, a run prints its own line
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The `srun` command is available", PossibleUserWarning)  # but not wanted
            fabric = Fabric(devices=devices, num_nodes=nodes, **options)
        _check_tasks(fabric, devices, nodes)
        fabric.launch()
    except UserError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{blamed}: {error}") from error
    return fabric


def _check_tasks(fabric: Fabric, devices: int, nodes: int) -> None:
    """Raise ConfigError unless Slurm, where it starts the processes, has started one for each device.

    Lightning starts none there, and would go on with those that there are.
    """
    environment = getattr(fabric.strategy, "cluster_environment", None)  # one process on one device has none
    if not isinstance(environment, SLURMEnvironment) or environment.world_size() == devices * nodes:
        return
    wanted = f"{count_of(devices, 'device')} on {count_of(nodes, 'node')}, which take a process each"
    srun = f"srun --nodes={nodes} --ntasks-per-node={devices}"
    here = ", or env -u SLURM_NTASKS, so that it starts its processes itself" if nodes == 1 else ""
    found = f"Slurm started {count_of(environment.world_size(), 'task')} for {wanted}"
    raise ConfigError(f"{found}; expected {srun} before the command{here}")
