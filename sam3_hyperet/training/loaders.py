"""How many loader processes a machine has room for; without torch and NumPy, which a sick installation lacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from sam3_hyperet.training.options import TrainOptions

if TYPE_CHECKING:
    from sam3_hyperet.data.annotations import AnnotatedImages
    from sam3_hyperet.data.prompts import PromptSampler

MOST = 8
AHEAD = 2  # batches that a loader process keeps
_USUAL = 0.95  # fraction of the images
_SHARED = Path("/dev/shm")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MEMORY_OF_JOB = {  # MiB of a part, and how many there are
    "SLURM_MEM_PER_NODE": "",
    "SLURM_MEM_PER_CPU": "SLURM_CPUS_ON_NODE",
    "SLURM_MEM_PER_GPU": "SLURM_GPUS_ON_NODE",
}


@dataclass(frozen=True)
class MaskLoad:
    """Masks of an image as a loader passes them on, a byte a pixel.

    usual: of nineteen images in twenty no more. most: of the fullest.
    """

    usual: int = 20
    most: int = 20


def mask_load(sets: Iterable[tuple[AnnotatedImages, PromptSampler]]) -> MaskLoad:
    """The masks of an image's prompts in some sets of images.

    Each prompt has its instances and their union. A set whose instances are not known unopened has the default.
    """
    loads = [MaskLoad()]
    for images, sampler in sets:
        found = images.max_instances({category.id: category.id for category in sampler.categories})
        if found is not None and len(found):
            present = len(sampler.categories) if sampler.num_positives is None else sampler.num_positives
            masks = present * found + present + sampler.num_negatives
            masks.sort()
            loads.append(MaskLoad(int(masks[int(_USUAL * (len(masks) - 1))]), int(masks[-1])))
    return MaskLoad(max(one.usual for one in loads), max(one.most for one in loads))


def loader_processes(
    train: TrainOptions, side: int, *, on_gpu: bool, cores: int | None = None, load: MaskLoad | None = None
) -> int:
    """`train.workers`, or what suits the machine: none beside a model on the CPU, else a core each but one.

    Args:
        side: of the model's images, in pixels.
        cores: of this process; None for `usable_cores`.
        load: of the images; None for one that suits most sets.
    """
    if train.workers is not None:
        return train.workers
    own = usable_cores(train.devices) if cores is None else cores
    room = memory_for_loading()
    fitting = (n for n in range(min(MOST, own - 1), 0, -1) if bytes_ahead(train, n, side, load) <= room)
    return next(fitting, 0) if on_gpu else 0


def bytes_ahead(train: TrainOptions, workers: int, side: int, load: MaskLoad | None = None) -> int:
    """About the memory of the batches that a machine's loader processes keep, in fp32; one image is the fullest."""
    load, images = load or MaskLoad(), train.devices * workers * AHEAD * train.batch_size
    return side * side * (images * (3 * 4 + load.usual) + load.most - load.usual)


def memory_for_loading(environment: Mapping[str, str] = os.environ) -> int:
    """Bytes of this machine that batches may wait in: half of /dev/shm, a quarter of the memory, or of a job's part."""
    available: int = psutil.virtual_memory().available
    quarter = min([available, *_memory_of_job(environment)]) // 4
    return min(quarter, shutil.disk_usage(_SHARED).free // 2) if _SHARED.is_dir() else quarter


def _memory_of_job(environment: Mapping[str, str]) -> Iterator[int]:
    """Bytes that Slurm says the job has on this machine; none where it has all of them."""
    for part, many in _MEMORY_OF_JOB.items():
        size, number = (environment.get(name, "") for name in (part, many))
        if size.isdigit() and (number.isdigit() or not many):
            yield from [int(size) * int(number or 1) * 2**20] if int(size) else []


def usable_cores(processes: int = 1, environment: Mapping[str, str] = os.environ) -> int:
    """Cores of one of so many processes of a run on this machine: by affinity, container and Slurm."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit, _, period = _QUOTA.read_text().strip().partition(" ") if _QUOTA.is_file() else ("max", "", "")
    machine = bound if limit == "max" else max(1, min(bound, int(limit) // int(period)))
    job = environment.get("SLURM_CPUS_ON_NODE", "")  # a task may be bound to its own part of these
    return max(1, min(machine, (int(job) if job.isdigit() else machine) // processes))
