"""How many loader processes a machine has room for; without torch."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil

from sam3_hyperet.training.options import TrainOptions

MOST = 8
AHEAD = 2  # batches that a loader process keeps
_MASKS = 20  # of an image, as a loader passes them on: one byte a pixel each
_SHARED = Path("/dev/shm")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def loader_processes(train: TrainOptions, side: int, *, on_gpu: bool, cores: int | None = None) -> int:
    """`train.workers`, or what suits the machine: none beside a model on the CPU, else a core each but one.

    Args:
        side: of the model's images, in pixels.
        cores: of this process; None for `usable_cores`.
    """
    if train.workers is not None:
        return train.workers
    own = usable_cores(train.devices) if cores is None else cores
    most = memory_for_loading() // (train.devices * bytes_ahead(train.batch_size, side))
    return max(0, min(MOST, own - 1, most)) if on_gpu else 0


def bytes_ahead(batch_size: int, side: int) -> int:
    """About the memory of the batches that a loader process keeps, in fp32 with their masks."""
    return AHEAD * batch_size * side * side * (3 * 4 + _MASKS)


def memory_for_loading() -> int:
    """Bytes of this machine that batches may wait in: half of /dev/shm, a quarter of the memory."""
    quarter: int = psutil.virtual_memory().available // 4
    return min(quarter, shutil.disk_usage(_SHARED).free // 2) if _SHARED.is_dir() else quarter


def usable_cores(processes: int = 1, environment: Mapping[str, str] = os.environ) -> int:
    """Cores of one of so many processes of a run on this machine: by affinity, container and Slurm."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit, _, period = _QUOTA.read_text().strip().partition(" ") if _QUOTA.is_file() else ("max", "", "")
    machine = bound if limit == "max" else max(1, min(bound, int(limit) // int(period)))
    job = environment.get("SLURM_CPUS_ON_NODE", "")  # a task may be bound to its own part of these
    return max(1, min(machine, (int(job) if job.isdigit() else machine) // processes))
