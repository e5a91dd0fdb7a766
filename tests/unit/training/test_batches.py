"""Batches on a device: every tensor is moved, all else stays."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import pytest
import torch

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
