"""The paired bootstrap: its intervals cover as often as they say, and draws without a value are counted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.bootstrap import draw_weights, intervals, paired_differences, remembered
from sam3_hyperet.evaluation.metrics.evaluator import Headline


def mean_of(values: np.ndarray) -> Headline:
    """The mean of those that are numbers; NaN where none of them counts."""

    def figures(weights: np.ndarray) -> dict[str, float]:
        counted = weights * ~np.isnan(values)
        total = float(counted @ np.nan_to_num(values))
        return {"mean": total / counted.sum() if counted.sum() else math.nan}

    return figures


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for trial in range(200):
        base = rng.normal(size=60)
        model = base + rng.normal(0.3, 0.5, size=60)
        found = paired_differences(mean_of(model), mean_of(base), 60, draws=200, seed=trial)["mean"]
        covered.append(found.low <= 0.3 <= found.high)
    assert 0.90 <= np.mean(covered) <= 0.98


def test_a_draw_is_shared_by_both_models() -> None:
    values = np.random.default_rng(1).normal(size=40)
    found = paired_differences(mean_of(values + 0.25), mean_of(values), 40, draws=100)["mean"]
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))
    assert (found.value, found.fraction_above, found.dropped) == (pytest.approx(0.25), 1, 0)
    equal = paired_differences(mean_of(values), mean_of(values), 40, draws=100)["mean"]
    assert (equal.low, equal.high, equal.fraction_above) == (0, 0, 0.5)


def test_the_interval_of_a_metric_itself() -> None:
    values = np.random.default_rng(2).normal(size=40)
    (low, high) = intervals(mean_of(values), 40, draws=400)["mean"]
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(40), rel=0.2)
    from_zero = paired_differences(mean_of(values), mean_of(np.zeros(40)), 40, draws=400)["mean"]
    assert (low, high) == (from_zero.low, from_zero.high)
    assert np.isnan(intervals(mean_of(np.full(40, np.nan)), 40, draws=3)["mean"]).all()


def test_a_draw_is_computed_once() -> None:
    drawn = []
    headline = remembered(lambda weights: drawn.append(weights) or {"mean": float(weights[0])})
    assert intervals(headline, 30, draws=20) == intervals(headline, 30, draws=20)
    assert len(drawn) == 20


def test_the_seed_decides_and_each_draw_has_as_many_pictures() -> None:
    first, again, other = (list(draw_weights(30, 20, seed)) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
    assert {int(weights.sum()) for weights in first} == {30}
    assert np.mean([(weights == 0).mean() for weights in first]) == pytest.approx((1 - 1 / 30) ** 30, abs=0.05)


def test_draws_without_a_value_are_dropped_and_counted() -> None:
    only_one = np.array([1.0, *[math.nan] * 3])
    found = paired_differences(mean_of(only_one + 1), mean_of(only_one), 4, draws=2000)["mean"]
    assert found.dropped / 2000 == pytest.approx((3 / 4) ** 4, abs=0.04)
    assert (found.low, found.high, found.fraction_above) == (1, 1, 1)
    nothing = paired_differences(mean_of(only_one[1:]), mean_of(only_one[1:]), 3, draws=5)["mean"]
    assert nothing.dropped == 5
    assert all(math.isnan(x) for x in (nothing.value, nothing.low, nothing.high, nothing.fraction_above))


def test_only_shared_figures_are_compared_and_something_must_be_drawn() -> None:
    one = mean_of(np.ones(2))
    assert paired_differences(one, lambda weights: {"other": 1.0}, 2, draws=2) == {}
    with pytest.raises(ConfigError, match="draws=0"):
        paired_differences(one, one, 2, draws=0)
    with pytest.raises(DataError, match="images"):
        paired_differences(one, one, 0)
