"""Fixtures for every test."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from undrawn import drawn_again, nothing_drawn

REPOSITORY = Path(__file__).resolve().parents[1]

# Bit-equality is tested: with several threads, or where MKL picks a kernel by a tensor's address, sums of floats come
# in no fixed order. MKL reads the variable when first used. (COMPATIBLE, the same on all processors, takes five times
# as long.)
os.environ.setdefault("MKL_CBWR", "AUTO")
torch.set_num_threads(1)
os.fsync = lambda _: None  # no test cuts the power, and each save of a state waited for the disk


def pytest_collection_finish() -> None:
    """What is there for the whole session, libraries and thousands of tests, is garbage in no collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def undrawn() -> Iterator[dict[str, Any]]:
    """Reports without plots, but in processes of their own and in modules that ask for `drawn`."""
    with nothing_drawn() as draws:
        yield draws


@pytest.fixture(scope="module")
def drawn(undrawn: dict[str, Any]) -> Iterator[None]:
    """Reports with their plots, for the tests of a module that look at them."""
    with drawn_again(undrawn):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real data: `SAM3_HYPERET_SHARED_DATA`, or `../shared/data` from the repository."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("SAM3_HYPERET_SHARED_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set SAM3_HYPERET_SHARED_DATA)")
    return folder
