"""Batches on a device: every tensor is moved, all else stays."""

from __future__ import annotations

import itertools
from dataclasses import fields, is_dataclass

import pytest
import torch

from sam3_hyperet.data.mixture import Mixture, quotas
from sam3_hyperet.sam3_host import BatchedDatapoint
from sam3_hyperet.training import batches


def flat(value):
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    return [leaf for item in value for leaf in flat(item)] if isinstance(value, list | tuple) else [value]


def test_every_tensor_is_moved(make_batch, monkeypatch):
    batch = make_batch([("car", [(10, 10, 60, 60)]), ("sky", [])], [("sky", [])])
    monkeypatch.setattr(batches, "build_loader", lambda *_, **__: [batch])
    for moved in (
        next(batches.training_batches([0, 1], 2, device="meta")),
        next(batches.val_batches([0, 1], 2, "meta")),
    ):
        assert type(moved) is BatchedDatapoint
        assert all(item.device.type == "meta" for item in flat(moved) if isinstance(item, torch.Tensor))
        assert len(flat(moved)) == len(flat(batch))
        assert moved.find_text_batch == batch.find_text_batch
    assert all(item.device.type == "cpu" for item in flat(batch) if isinstance(item, torch.Tensor))


@pytest.mark.parametrize(("device", "is_pinned"), [("cpu", False), ("cuda:1", True)])
def test_batches_for_a_gpu_are_pinned(monkeypatch, device, is_pinned):
    """Only then does their copy to it run beside the work there."""
    seen = []
    monkeypatch.setattr(batches, "build_loader", lambda *_, pin_memory: seen.append(pin_memory) or [])
    assert list(batches.training_batches([0, 1], 2, device=device)) == []
    assert seen == [is_pinned]


@pytest.mark.parametrize("dataset", [range(50), Mixture([range(40), range(30)], quotas([1, 2]))], ids=["one", "mixed"])
def test_a_resumed_run_goes_on_behind_the_images_that_it_has_seen(monkeypatch, dataset):
    """A process takes `accumulate` batches a step, of which the processes together have one row."""
    orders = []
    monkeypatch.setattr(batches, "build_loader", lambda data, size, workers, order, **_: orders.append(order) or [])

    def images(count, **place):
        list(batches.training_batches(dataset, 2, seed=7, **place))
        return list(itertools.islice(orders.pop(), count))

    row = images(60)
    for rank in range(3):
        assert images(20, accumulate=4, rank=rank, world=3) == row[rank::3]
        assert images(4, accumulate=4, rank=rank, world=3, step=2) == row[rank::3][16:]
