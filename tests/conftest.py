"""Fixtures for every test."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]

# Bit-equality is tested: with several threads, or where MKL picks a kernel by a tensor's address, sums of floats come
# in no fixed order. MKL reads the variable when first used. (COMPATIBLE, the same on all processors, takes five times
# as long.)
os.environ.setdefault("MKL_CBWR", "AUTO")
torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What is there for the whole session, libraries and thousands of tests, is garbage in no collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without what Matplotlib draws, for tests that look at numbers and words.

    Drawing is up to half of the time of a report. Fixtures of a wider scope draw theirs; every kind of plot is drawn in
    tests/unit/report.
    """
    from matplotlib.figure import Figure

    from sam3_hyperet.report.figures import plots

    monkeypatch.setattr(plots, "_fit", lambda figure: None)
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: file.write("<svg></svg>"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real data: `SAM3_HYPERET_SHARED_DATA`, or `../shared/data` from the repository."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("SAM3_HYPERET_SHARED_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set SAM3_HYPERET_SHARED_DATA)")
    return folder
