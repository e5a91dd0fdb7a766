"""How many loader processes a machine gets: cores, containers, Slurm, memory."""

from __future__ import annotations

import pytest

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
    each = loaders.bytes_ahead(2, 1008)
    monkeypatch.setattr(loaders, "memory_for_loading", lambda: 4 * 3 * each)
    assert loaders.loader_processes(train, 1008, on_gpu=True, cores=16) == 3
    monkeypatch.setattr(loaders, "memory_for_loading", lambda: each)
    assert loaders.loader_processes(train, 1008, on_gpu=True, cores=16) == 0


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
