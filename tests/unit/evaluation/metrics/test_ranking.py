"""Ranking figures against SciPy and against counting, with ties; a weight is a repetition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from sam3_hyperet.evaluation.metrics.ranking import (
    Ranking,
    aurc,
    auroc,
    cross_fitted,
    partial_correlation,
    rank_correlations,
    risk_coverage,
    spearman,
)

coarse = st.integers(0, 4).map(lambda k: k / 4)  # so that there are ties
items = st.lists(st.tuples(coarse, coarse, st.integers(0, 3)), min_size=1, max_size=12).map(
    lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True))
)


@given(items)
def test_spearman_is_scipys(rows):
    a, b, weights = rows
    for values, others, counts in ((a, b, np.ones(len(a))), (a, b, weights)):
        x, y = np.repeat(values, counts.astype(int)), np.repeat(others, counts.astype(int))
        found = spearman(Ranking(values), Ranking(others), counts)
        if len(set(x)) > 1 and len(set(y)) > 1:
            assert found == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
        else:
            assert np.isnan(found)


@given(items)
def test_auroc_counts_pairs(rows):
    uncertainty, loss, weights = rows
    wrong = loss > 0.5
    u, w = np.repeat(uncertainty, weights), np.repeat(wrong, weights)
    pairs = [(x > y) + (x == y) / 2 for x, y in itertools.product(u[w], u[~w])]
    found = auroc(Ranking(uncertainty), wrong, weights)
    assert np.isnan(found) if not pairs else found == pytest.approx(np.mean(pairs))


@given(st.lists(st.tuples(coarse, coarse), min_size=1, max_size=5))
def test_aurc_is_the_mean_over_all_orders_of_ties(rows):
    uncertainty, loss = np.array(rows).T
    areas = [
        np.mean(np.cumsum(loss[list(order)]) / np.arange(1, len(loss) + 1))
        for order in itertools.permutations(range(len(loss)))
        if (np.diff(uncertainty[list(order)]) >= 0).all()
    ]
    assert aurc(Ranking(uncertainty), loss, np.ones(len(loss))) == pytest.approx(np.mean(areas))


@given(items)
def test_a_weight_is_a_repetition(rows):
    uncertainty, loss, weights = rows
    repeated = np.repeat(uncertainty, weights), np.repeat(loss, weights)
    expected = aurc(Ranking(repeated[0]), repeated[1], np.ones(len(repeated[0])))
    assert aurc(Ranking(uncertainty), loss, weights) == pytest.approx(expected, nan_ok=True)
    if len(repeated[0]):
        curve = risk_coverage(Ranking(uncertainty), loss, weights)
        for found, reference in zip(
            curve, risk_coverage(Ranking(repeated[0]), repeated[1], np.ones(weights.sum())), strict=True
        ):
            assert found == pytest.approx(reference)


def test_the_risk_coverage_curve():
    coverage, risk = risk_coverage(Ranking(np.array([0.3, 0.1, 0.3, 0.9])), np.array([1, 0, 0, 1]), np.ones(4))
    assert coverage.tolist() == [0.25, 0.75, 1]
    assert risk.tolist() == pytest.approx([0, 1 / 3, 1 / 2])


def test_the_best_and_the_worst_order():
    loss = np.array([0.0, 0.0, 1.0, 1.0])
    every = np.ones(4)
    assert aurc(Ranking(loss), loss, every) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert aurc(Ranking(-loss), loss, every) == pytest.approx((1 + 1 + 2 / 3 + 1 / 2) / 4)
    assert aurc(Ranking(np.zeros(4)), loss, every) == pytest.approx(loss.mean())
    assert auroc(Ranking(loss), loss > 0, every) == 1
    assert auroc(Ranking(-loss), loss > 0, every) == 0


def test_many_items_are_quick_and_exact():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 50, 20_000), rng.random(20_000)
    assert spearman(Ranking(a), Ranking(b), np.ones(20_000)) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    order = np.argsort(b, kind="stable")
    expected = np.mean(np.cumsum(a[order] / 50) / np.arange(1, 20_001))
    assert aurc(Ranking(b), a / 50, np.ones(20_000)) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=25)
@given(items, st.integers(0, 99))
def test_the_partial_correlation_is_the_correlation_of_what_ranks_leave_of_ranks(rows, seed):
    a, b, _ = rows
    given_ = np.random.default_rng(seed).permutation(len(a)).astype(float)
    found = partial_correlation(rank_correlations([Ranking(a), Ranking(b), Ranking(given_)], np.ones(len(a))))
    ranks = [Ranking(values).ranks(np.ones(len(a))) for values in (a, b, given_)]
    x = np.column_stack([np.ones(len(a)), ranks[2]])
    left = [y - x @ np.linalg.lstsq(x, y, rcond=None)[0] for y in ranks[:2]]
    scale = np.linalg.norm(left[0]) * np.linalg.norm(left[1])
    if np.isfinite(found) and scale > 1e-6:
        assert found == pytest.approx(left[0] @ left[1] / scale, abs=1e-6)


def test_two_uncertainties_are_weighed_on_other_groups():
    rng = np.random.default_rng(0)
    n = 600
    helpful, useless, groups = rng.normal(size=n), rng.normal(size=n), np.arange(n) // 10
    wrong = helpful + rng.normal(size=n) > 0.5
    every = np.ones(n)
    both = cross_fitted(np.stack([useless, helpful], axis=1), wrong, groups)
    alone = auroc(Ranking(helpful), wrong, every)
    assert auroc(Ranking(both), wrong, every) == pytest.approx(alone, abs=0.02)
    flipped = cross_fitted(np.stack([useless, -helpful], axis=1), wrong, groups)
    assert auroc(Ranking(flipped), wrong, every) == pytest.approx(auroc(Ranking(both), wrong, every))
    nothing = cross_fitted(rng.normal(size=(n, 2)), wrong, groups)
    assert auroc(Ranking(nothing), wrong, every) == pytest.approx(0.5, abs=0.07)
    one = cross_fitted(useless[:, None], wrong, np.where(wrong, 0, 1))
    assert one is None
    assert cross_fitted(np.zeros((0, 2)), np.zeros(0, bool), np.zeros(0, int)) is None
