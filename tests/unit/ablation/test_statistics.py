"""Paired statistics: beside scipy's, and what must hold for any differences."""

from __future__ import annotations

import math
import warnings
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sam3_hyperet.ablation import statistics
from sam3_hyperet.ablation.statistics import (
    base_test,
    effective_pairs,
    equivalence_test,
    holm,
    mean_interval,
    pair_test,
    sign_flip_p,
)

MARGIN = 0.02
DIFFERENCES = st.lists(st.integers(-80_000, 80_000).map(lambda micro: micro / 1e6), min_size=2, max_size=12)
quick = settings(max_examples=25, deadline=None)


def sample(n: int, mean: float = 0.01, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.02, n)


def flipped_p(differences: np.ndarray) -> float:
    """By definition, one sign vector at a time."""
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=6)]
    return float(np.mean([total >= abs(sum(differences)) - 1e-12 for total in sums]))


def test_the_interval_is_students():
    d = sample(15)
    low, high = stats.ttest_1samp(d, 0).confidence_interval(0.95)
    assert mean_interval(d) == pytest.approx((d.mean(), low, high))


@pytest.mark.parametrize("n", [5, 12, 15])
def test_sign_flips_are_scipys_exact_permutation_test(n):
    d = sample(n)

    def mean(x: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis=axis)

    exact = stats.permutation_test((d,), mean, permutation_type="samples", vectorized=True, n_resamples=math.inf)
    assert sign_flip_p(d) == exact.pvalue


def test_sign_flips_by_definition():
    for seed in range(5):
        d = sample(6, seed=seed)
        assert sign_flip_p(d) == flipped_p(d)


def test_ties_of_rounded_differences_count():
    assert sign_flip_p([0.1, 0.2, 0.3, 0.1 + 0.2 - 0.3 + 0.3]) == 2 / 16
    assert sign_flip_p([0.1, 0.2, -0.3]) == 1.0  # their sum is 5.6e-17, not 0


@pytest.mark.parametrize("n", [1, 3, 5, 15])
def test_the_least_p_is_two_in_all_signs(n):
    assert sign_flip_p(np.full(n, 0.013)) == 2 / 2**n


def test_many_pairs_are_flipped_at_random(monkeypatch):
    d = sample(18, 0.008)
    exact = sign_flip_p(d)
    monkeypatch.setattr(statistics, "MOST_FLIPPED", 17)
    drawn = sign_flip_p(d)
    assert drawn == sign_flip_p(d)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / statistics.FLIPS))
    assert sign_flip_p(np.ones(40)) == 1 / (statistics.FLIPS + 1)


def test_sign_flips_keep_their_level():
    rng = np.random.default_rng(3)
    p = [sign_flip_p(rng.standard_t(3, 10)) for _ in range(400)]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_is_between_the_raw_p_and_bonferronis_and_keeps_their_order(p):
    raw, adjusted = np.array(p), holm(p)
    assert np.all(adjusted >= raw)
    assert np.all(adjusted <= np.minimum(1, len(raw) * raw))
    assert np.all(np.diff(adjusted[np.argsort(raw, kind="stable")]) >= 0)
    assert adjusted.min() == min(1, len(raw) * raw.min())


@quick
@given(st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.04, 0.2, 0.6]), min_size=1, max_size=8))
def test_holm_rejects_what_its_steps_reject(p):
    rejected = set()
    for step, k in enumerate(np.argsort(p, kind="stable")):
        if p[k] * (len(p) - step) >= 0.05:
            break
        rejected.add(int(k))
    assert {k for k, one in enumerate(holm(p)) if one < 0.05} == rejected


def test_equivalence_is_two_t_tests_of_scipy():
    d = sample(15, 0.004)
    found = equivalence_test(d, MARGIN)
    assert found.p_above == pytest.approx(stats.ttest_1samp(d, -MARGIN, alternative="greater").pvalue)
    assert found.p_below == pytest.approx(stats.ttest_1samp(d, MARGIN, alternative="less").pvalue)
    assert found.interval == pytest.approx(tuple(stats.ttest_1samp(d, 0).confidence_interval(0.90)))
    assert found.p == max(found.p_above, found.p_below)


@quick
@given(DIFFERENCES, st.sampled_from([0.05, 0.01]))
def test_equivalent_is_where_the_interval_lies_within_the_margin(differences, alpha):
    found = equivalence_test(differences, MARGIN, alpha)
    low, high = found.interval
    if min(abs(low + MARGIN), abs(high - MARGIN)) > 1e-9:
        assert (found.p < alpha) == (low > -MARGIN and high < MARGIN)


@quick
@given(DIFFERENCES)
def test_the_t_interval_holds_zero_where_the_t_test_does_not_reject(differences):
    found = base_test(differences, [str(k) for k in range(len(differences))], MARGIN).test
    low, high = found.interval
    if min(abs(low), abs(high)) > 1e-9:
        assert (found.p >= 0.05) == (low <= 0 <= high)


@quick
@given(DIFFERENCES)
def test_swapped_arms_negate(differences):
    d = np.array(differences)
    bases = [str(k % 3) for k in range(len(d))]
    one, other = pair_test(d, MARGIN), pair_test(-d, MARGIN)
    assert (other.mean, other.p, other.sd) == pytest.approx((-one.mean, one.p, one.sd))
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))
    assert (other.equivalence.p_above, other.equivalence.p_below) == pytest.approx(
        (one.equivalence.p_below, one.equivalence.p_above)
    )
    whole, negated = base_test(d, bases, MARGIN), base_test(-d, bases, MARGIN)
    assert negated.bootstrap == pytest.approx((-whole.bootstrap[1], -whole.bootstrap[0]), nan_ok=True)
    assert negated.agreeing == whole.agreeing
    assert negated.between == pytest.approx(whole.between, nan_ok=True)


def test_means_of_bases_are_tested_by_t():
    d, bases = sample(15), list("aaaaabbbbbccccc")
    found = base_test(d, bases, MARGIN)
    means = d.reshape(3, 5).mean(axis=1)
    reference = stats.ttest_1samp(means, 0)
    assert list(found.means.values()) == pytest.approx(means.tolist())
    assert found.test.n == 3
    assert found.test.p == pytest.approx(reference.pvalue)
    assert found.test.interval == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert found.agreeing == sum(np.sign(means) == np.sign(means.mean()))


def test_only_the_test_over_bases_keeps_its_level_on_further_bases(monkeypatch):
    """Arms that are equal on average, but not on each base: over pairs, that looks like a difference far too often."""
    monkeypatch.setattr(statistics, "DRAWS", 10)
    rng, bases = np.random.default_rng(11), list("aaaaabbbbbccccc")
    pairs, over = [], []
    for _ in range(200):
        d = (rng.normal(0, 0.02, 3)[:, None] + rng.normal(0, 0.01, (3, 5))).ravel()
        pairs.append(sign_flip_p(d) < 0.05)
        over.append(base_test(d, bases, MARGIN).test.p < 0.05)
    assert np.mean(over) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean(pairs) > 0.3


def test_a_base_counts_once_however_many_seeds_it_has():
    found = base_test([0.1, 0.1, 0.1, 0.1, -0.1], list("aaaab"), MARGIN)
    assert found.test.mean == pytest.approx(0)
    assert pair_test([0.1, 0.1, 0.1, 0.1, -0.1], MARGIN).mean == pytest.approx(0.06)


def test_the_bootstrap_draws_bases_and_then_seeds():
    """Its variance is that between bases, (k − 1)/k of it, and that of the seeds within."""
    rng = np.random.default_rng(5)
    k, m = 12, 6
    d = (rng.normal(0.01, 0.02, k)[:, None] + rng.normal(0, 0.01, (k, m))).ravel()
    bases = [str(j // m) for j in range(k * m)]
    low, high = base_test(d, bases, MARGIN).bootstrap
    groups = d.reshape(k, m)
    variance = groups.mean(axis=1).var() / k + groups.var(axis=1).mean() / (k * m)
    assert (high - low) / (2 * 1.96) == pytest.approx(math.sqrt(variance), rel=0.05)
    alone = pair_test(d, MARGIN).interval
    assert high - low > 1.5 * (alone[1] - alone[0])


def test_one_base_says_nothing_of_further_ones():
    found = base_test([0.01, 0.02, 0.03], list("aaa"), MARGIN)
    assert found.means == pytest.approx({"a": 0.02})
    assert all(map(math.isnan, (*found.bootstrap, *found.test.interval)))


def test_the_share_between_bases():
    same, other = [0.01, 0.011, 0.009], [0.03, 0.031, 0.029]
    assert base_test(same + other, list("aaabbb"), MARGIN).between > 0.99
    assert base_test(same + same, list("aaabbb"), MARGIN).between == 0.0
    rng = np.random.default_rng(7)
    d = rng.normal(0, 0.02, 30)[:, None] + rng.normal(0, 0.02, (30, 20))
    assert base_test(d.ravel(), [str(k // 20) for k in range(600)], MARGIN).between == pytest.approx(0.5, abs=0.15)
    assert effective_pairs(15, 3, 1.0) == 3
    assert effective_pairs(15, 3, 0.0) == 15


@pytest.mark.parametrize("differences", [[], [0.01], [0.0, 0.0, 0.0], [0.3 - 0.1, 0.2, 0.2]])
def test_few_or_equal_differences_have_no_spread_and_no_warning(differences):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs = pair_test(differences, MARGIN)
        bases = base_test(differences, ["a"] * len(differences), MARGIN)
    assert math.isnan(pairs.effect_size)
    assert math.isnan(bases.between) or bases.between == 0
    assert bases.test.p == 1.0
    if len(differences) < 2:
        assert pairs.equivalence.p == 1.0
    else:
        inside = abs(differences[0]) < MARGIN
        assert pairs.equivalence.p == (0.0 if inside else 1.0)
