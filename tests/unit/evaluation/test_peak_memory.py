"""The peak of memory is that of the right device, and of what runs now."""

from __future__ import annotations

import mmap

import pytest
import torch

from sam3_hyperet.evaluation import peak_memory
from sam3_hyperet.evaluation.peak_memory import PeakMemory

CPU = torch.device("cpu")
SIZE = 200 * 2**20


def hold() -> None:
    """Take memory from the system, use all of it and give it back."""
    with mmap.mmap(-1, SIZE) as memory:
        memory[:: mmap.PAGESIZE] = bytes(SIZE // mmap.PAGESIZE)


def test_what_was_held_before_does_not_count():
    before = PeakMemory(CPU)
    hold()
    peak = before.bytes()
    later = PeakMemory(CPU)
    if not peak_memory._RESET.exists():
        pytest.skip("this system does not start its count of memory anew")
    assert later.bytes() < peak - SIZE // 2
    hold()
    assert later.bytes() > peak - SIZE // 2


def test_a_system_without_linux_s_files(monkeypatch, tmp_path):
    monkeypatch.setattr(peak_memory, "_RESET", tmp_path)  # a folder
    monkeypatch.setattr(peak_memory, "_STATUS", tmp_path / "missing")
    assert PeakMemory(CPU).bytes() > 2**20


def test_the_device_s_own_peak(monkeypatch):
    """Of the model's device, which need not be the present one."""
    asked = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", asked.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: asked.append(device) or 7)
    assert PeakMemory(torch.device("cuda", 1)).bytes() == 7
    assert asked == [torch.device("cuda", 1)] * 2
