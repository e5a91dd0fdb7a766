"""How many pairs are needed: beside published values and beside simulated studies."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sam3_hyperet.ablation.power import (
    pairs_for_decision,
    pairs_for_difference,
    pairs_for_equivalence,
    power_of_difference,
    power_of_equivalence,
)


@pytest.mark.parametrize(("dz", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_pairs_of_a_t_test_are_the_textbooks(dz, pairs):
    """Cohen's small, medium and large effects at α = .05 and power .8, as G*Power gives them."""
    assert pairs_for_difference(1.0, dz) == pairs


def test_pairs_of_an_equivalence_test_are_close_to_the_normal_approximation():
    """Lakens (2017): n = ((z₁₋α + z₁₋β⸝₂) / dz)², 95.2 at dz = .3, without the t-distribution's heavier tails."""
    approximate = ((stats.norm.ppf(0.95) + stats.norm.ppf(0.9)) / 0.3) ** 2
    assert approximate < pairs_for_equivalence(1.0, 0.3) <= approximate + 2


@pytest.mark.parametrize("true", [0.0, 0.01])
def test_power_is_the_fraction_of_simulated_studies(true):
    n, sd, margin = 15, 0.03, 0.025
    d = np.random.default_rng(0).normal(true, sd, (20_000, n))
    error = d.std(axis=1, ddof=1) / np.sqrt(n)
    found = np.abs(d.mean(axis=1)) / error > stats.t.isf(0.025, n - 1)
    assert power_of_difference(n, sd, true) == pytest.approx(found.mean(), abs=0.01)
    within = np.abs(d.mean(axis=1)) + stats.t.isf(0.05, n - 1) * error < margin
    assert power_of_equivalence(n, sd, margin, difference=true) == pytest.approx(within.mean(), abs=0.01)


def test_the_least_number_is_the_least():
    n = pairs_for_equivalence(0.03, 0.02)
    assert power_of_equivalence(n, 0.03, 0.02) >= 0.8 > power_of_equivalence(n - 1, 0.03, 0.02)
    assert pairs_for_equivalence(1.0, 0.001) is None
    assert pairs_for_equivalence(0.01, 0.02, difference=0.02) is None


def test_a_decision_takes_the_shorter_way():
    sd, margin = 0.02, 0.02
    assert pairs_for_decision(0.0, sd, margin) == pairs_for_equivalence(sd, margin)
    assert pairs_for_decision(0.03, sd, margin) == pairs_for_difference(sd, 0.03)
    between = pairs_for_decision(0.01, sd, margin)
    assert between > max(pairs_for_decision(0.0, sd, margin), pairs_for_decision(0.03, sd, margin))
    assert 2 / 2 ** pairs_for_decision(1.0, sd, margin) < 0.05  # an exact test of fewer pairs never gets there


def test_no_spread():
    assert power_of_difference(5, 0.0, 0.01) == 1.0
    assert power_of_equivalence(5, 0.0, 0.02) == 1.0
    assert power_of_equivalence(1, 0.01, 0.02) == power_of_difference(1, 0.01, 0.02) == 0.0


def test_the_documented_table():
    page = Path(__file__).resolve().parents[3] / "docs" / "ablation.md"
    rows = re.findall(r"^\| (\.\d+) \| (\d.*) \|$", page.read_text(), re.M)
    assert len(rows) == 6
    for sd, cells in rows:
        found = [
            f(float(sd), 0.02, 0.05 / m) for f in (pairs_for_difference, pairs_for_equivalence) for m in (1, 8, 20)
        ]
        assert [int(cell) for cell in cells.split(" | ")] == found
