"""How many loader processes a machine gets: cores, containers, Slurm, memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sam3_hyperet.data.annotations import AnnotatedImages, Category
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.training import loaders
from sam3_hyperet.training.options import TrainOptions


@pytest.mark.parametrize(
    ("options", "on_gpu", "cores", "expected"),
    [
        ({}, False, 64, 0),  # the model uses the cores itself
        ({"workers": 3}, False, 1, 3),
        ({"workers": 0}, True, 64, 0),
        ({}, True, 1, 0),
        ({}, True, 2, 1),
        ({}, True, 64, 8),
    ],
)
def test_loader_processes(monkeypatch, options, on_gpu, cores, expected):
    monkeypatch.setattr(loaders, "memory_for_loading", lambda: 2**33)
    assert loaders.loader_processes(TrainOptions(**options), 1008, on_gpu=on_gpu, cores=cores) == expected


def test_they_fit_the_memory_that_all_processes_of_a_node_share(monkeypatch):
    train = TrainOptions(batch_size=2, devices=4)
    each = loaders.bytes_ahead(train, 1, 1008) // 4
    monkeypatch.setattr(loaders, "memory_for_loading", lambda: 4 * 3 * each)
    assert loaders.loader_processes(train, 1008, on_gpu=True, cores=16) == 3
    monkeypatch.setattr(loaders, "memory_for_loading", lambda: each)
    assert loaders.loader_processes(train, 1008, on_gpu=True, cores=16) == 0


CATEGORIES = (Category(1, "cell"), Category(2, "dish"))


class Counted(AnnotatedImages):
    """Images of which the largest number of instances of one name is known, or not."""

    def __init__(self, found):
        super().__init__("counted", CATEGORIES)
        self.found = found

    def max_instances(self, names):
        return self.found


def test_they_fit_what_the_images_show(monkeypatch):
    """Up to two names are prompted as present and one as absent, whose union of masks is passed on as well."""
    sampler = PromptSampler(CATEGORIES, num_positives=2, num_negatives=1)
    assert loaders.mask_load([(Counted(None), sampler)]) == loaders.MaskLoad(20, 20)
    assert loaders.mask_load([(Counted(np.full(9, 2)), sampler)]) == loaders.MaskLoad(20, 20)
    dense = loaders.mask_load([(Counted(np.array([*[200] * 99, 1000])), sampler), (Counted(None), sampler)])
    assert dense == loaders.MaskLoad(403, 2003)
    train, side = TrainOptions(batch_size=2), 1008
    assert loaders.bytes_ahead(train, 1, side, dense) == side**2 * (4 * (12 + 403) + 1600)
    monkeypatch.setattr(loaders, "memory_for_loading", lambda: loaders.bytes_ahead(train, 2, side, dense))
    assert loaders.loader_processes(train, side, on_gpu=True, cores=16) == 8
    assert loaders.loader_processes(train, side, on_gpu=True, cores=16, load=dense) == 2


@pytest.mark.parametrize(("available", "free", "expected"), [(4000, 900, 450), (4000, 9000, 1000), (4000, None, 1000)])
def test_batches_wait_in_half_of_the_shared_memory_and_a_quarter_of_all(
    monkeypatch, tmp_path, available, free, expected
):
    """Where there is no /dev/shm, the quarter alone."""
    shared = tmp_path / "shm"
    if free is not None:
        shared.mkdir()
    monkeypatch.setattr(loaders, "_SHARED", shared)
    monkeypatch.setattr(loaders.psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda folder: {shared: SimpleNamespace(free=free)}[folder])
    assert loaders.memory_for_loading({}) == expected


@pytest.mark.parametrize(
    ("environment", "gigabytes"),
    [
        ({}, 1024),
        ({"SLURM_MEM_PER_NODE": "131072", "SLURM_CPUS_ON_NODE": "16"}, 128),
        ({"SLURM_MEM_PER_NODE": "0"}, 1024),  # all of it
        ({"SLURM_MEM_PER_CPU": "4096", "SLURM_CPUS_ON_NODE": "16"}, 64),
        ({"SLURM_MEM_PER_CPU": "4096"}, 1024),
        ({"SLURM_MEM_PER_GPU": "65536", "SLURM_GPUS_ON_NODE": "2"}, 128),
        ({"SLURM_MEM_PER_NODE": "9999999"}, 1024),
    ],
)
def test_batches_wait_in_a_quarter_of_what_the_job_has(monkeypatch, tmp_path, environment, gigabytes):
    monkeypatch.setattr(loaders, "_SHARED", tmp_path / "nowhere")
    monkeypatch.setattr(loaders.psutil, "virtual_memory", lambda: SimpleNamespace(available=1024 * 2**30))
    assert loaders.memory_for_loading(environment) == gigabytes * 2**30 // 4


def test_cores_are_shared_as_the_machine_a_container_and_slurm_say(monkeypatch, tmp_path):
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(loaders, "_QUOTA", quota)
    monkeypatch.setattr(loaders.os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert loaders.usable_cores(1, {}) == 16
    assert loaders.usable_cores(4, {}) == 4
    assert loaders.usable_cores(32, {}) == 1
    assert loaders.usable_cores(2, {"SLURM_CPUS_ON_NODE": "8"}) == 4  # tasks that are not bound
    monkeypatch.setattr(loaders.os, "sched_getaffinity", lambda _: range(4), raising=False)
    assert loaders.usable_cores(2, {"SLURM_CPUS_ON_NODE": "8"}) == 4  # and one that is bound to its own
    quota.write_text("250000 100000\n")
    assert loaders.usable_cores(1, {}) == 2
    quota.write_text("max 100000\n")
    assert loaders.usable_cores(1, {}) == 4
