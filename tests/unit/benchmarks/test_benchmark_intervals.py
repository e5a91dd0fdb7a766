"""The intervals keep their level on few images, and percentiles of the draws do not."""

from __future__ import annotations

import pytest

from benchmarks import intervals


def test_the_interval_errs_about_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(intervals, "IMAGES", (4, 10))
    found = intervals.run(trials=200, draws=60)
    assert set(found) == {key for key in found if key.startswith("intervals/")}
    for kind in {key.split("/")[1] for key in found}:
        ours, theirs = (found[f"intervals/{kind}/{method}/10"] for method in ("t", "percentiles"))
        assert ours <= 10  # nominal 5, of 200 pairs
        assert ours <= theirs
    assert found["intervals/a mean, normal/percentiles/4"] > 14
    assert found["intervals/a mean, normal/t/4"] == pytest.approx(5, abs=4)
