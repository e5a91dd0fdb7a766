"""The device and the threads that options name."""

from __future__ import annotations

import pytest
import torch

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.opening import choose_device, set_threads


def test_device():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        for name in ("cuda", "gpu", "cuda:1"):
            with pytest.raises(ConfigError, match=f"device={name}, but PyTorch finds no CUDA device"):
                choose_device(name)


@pytest.mark.parametrize(("count", "last", "expected"), [(1, "cuda", "cuda:0"), (2, "gpu:1", "cuda:0 to cuda:1")])
def test_a_card_that_is_not_there(monkeypatch, count, last, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert choose_device(last).type == "cuda"
    with pytest.raises(ConfigError, match=f"^device=cuda:7, but PyTorch finds {count} CUDA .*; expected {expected}$"):
        choose_device("cuda:7")


def test_threads():
    before = torch.get_num_threads()
    try:
        set_threads(0)
        assert torch.get_num_threads() == before
        set_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ConfigError, match="threads='two'; expected an integer from 0"):
        set_threads("two")
