"""The paired bootstrap: its intervals cover as often as they say, and draws without a value are counted."""

from __future__ import annotations

import math
import threading
from functools import partial

import numpy as np
import pytest

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation import bootstrap
from sam3_hyperet.evaluation.bootstrap import FEWEST_IMAGES, draw_weights, intervals, paired_differences, remembered
from sam3_hyperet.evaluation.metrics.evaluator import Headline


def mean_of(values: np.ndarray) -> Headline:
    """The mean of those that are numbers; NaN where none of them counts."""

    def figures(weights: np.ndarray) -> dict[str, float]:
        counted = weights * ~np.isnan(values)
        total = float(counted @ np.nan_to_num(values))
        return {"mean": total / counted.sum() if counted.sum() else math.nan}

    return figures


@pytest.mark.parametrize("images", [FEWEST_IMAGES, 60])
def test_intervals_cover_the_truth_as_often_as_they_say(images) -> None:
    """Also on few images: percentiles of the draws miss the truth in 10 % of the cases at 10 images."""
    rng = np.random.default_rng(0)
    covered, of_percentiles = [], []
    for trial in range(300):
        base = rng.normal(size=images)
        difference = rng.normal(0.3, 0.5, size=images)
        found = paired_differences(mean_of(base + difference), mean_of(base), images, draws=100, seed=trial)["mean"]
        covered.append(found.low <= 0.3 <= found.high)
        drawn = [difference @ weights / images for weights in draw_weights(images, 100, trial)]
        low, high = np.percentile(drawn, [2.5, 97.5])
        of_percentiles.append(low <= 0.3 <= high)
    assert 0.93 <= np.mean(covered) <= 0.975
    assert np.mean(of_percentiles) < np.mean(covered)


def test_few_images_have_no_interval() -> None:
    values = np.random.default_rng(0).normal(size=FEWEST_IMAGES)
    found = [paired_differences(mean_of(x), mean_of(x**2), len(x))["mean"] for x in (values, values[1:])]
    assert [math.isfinite(one.low) and math.isfinite(one.high) for one in found] == [True, False]
    assert all(math.isfinite(one.value) for one in found)


def test_a_draw_is_shared_by_both_models() -> None:
    values = np.random.default_rng(1).normal(size=40)
    found = paired_differences(mean_of(values + 0.25), mean_of(values), 40, draws=100)["mean"]
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert found.dropped == 0
    equal = paired_differences(mean_of(values), mean_of(values), 40, draws=100)["mean"]
    assert (equal.low, equal.high) == (0, 0)


def test_the_interval_of_a_metric_itself() -> None:
    values = np.random.default_rng(2).normal(size=40)
    (low, high) = intervals(mean_of(values), 40, draws=400)["mean"]
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 2.02 * values.std(ddof=1) / np.sqrt(40), rel=0.1)
    assert (low + high) / 2 == pytest.approx(values.mean())
    from_zero = paired_differences(mean_of(values), mean_of(np.zeros(40)), 40, draws=400)["mean"]
    assert (low, high) == (from_zero.low, from_zero.high)
    assert np.isnan(intervals(mean_of(np.full(40, np.nan)), 40, draws=3)["mean"]).all()


def test_a_draw_is_computed_once() -> None:
    drawn = []
    headline = remembered(lambda weights: drawn.append(weights) or {"mean": float(weights[0])})
    assert intervals(headline, 30, draws=20) == intervals(headline, 30, draws=20)
    assert len(drawn) == 21  # all images, and 20 draws


def test_the_seed_decides_and_each_draw_has_as_many_pictures() -> None:
    first, again, other = (list(draw_weights(30, 20, seed)) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))
    assert {int(weights.sum()) for weights in first} == {30}
    assert np.mean([(weights == 0).mean() for weights in first]) == pytest.approx((1 - 1 / 30) ** 30, abs=0.05)


def test_draws_without_a_value_are_counted_and_many_of_them_are_no_interval() -> None:
    few = np.where(np.arange(40) < 3, np.arange(40.0), math.nan)
    found = paired_differences(mean_of(few + 1), mean_of(few), 40, draws=1000)["mean"]
    assert found.dropped / 1000 == pytest.approx((37 / 40) ** 40, abs=0.02)
    assert found.value == 1
    assert math.isnan(found.low)
    more = np.where(np.arange(40) < 9, np.arange(40.0), math.nan)
    assert math.isfinite(paired_differences(mean_of(more**2), mean_of(more), 40, draws=1000)["mean"].low)
    nothing = paired_differences(mean_of(few[3:]), mean_of(few[3:]), 37, draws=5)["mean"]
    assert nothing.dropped == 5
    assert all(math.isnan(x) for x in (nothing.value, nothing.low, nothing.high))


def test_only_shared_figures_are_compared_and_something_must_be_drawn() -> None:
    one = mean_of(np.ones(2))
    assert paired_differences(one, lambda weights: {"other": 1.0}, 2, draws=2) == {}
    with pytest.raises(ConfigError, match="draws=0"):
        paired_differences(one, one, 2, draws=0)
    with pytest.raises(DataError, match="images"):
        paired_differences(one, one, 0)


def test_many_images_are_drawn_in_threads_to_the_same_numbers(monkeypatch):
    values, together = np.random.default_rng(0).random(1500), threading.Barrier(2, timeout=60)

    def mean(weights, meet=None):
        if meet and threading.current_thread() is not threading.main_thread():
            meet.wait()  # for another draw, which a single thread would not make
        return {"mean": float(weights @ values / weights.sum())}

    monkeypatch.setattr(bootstrap, "usable_cores", lambda: 2)
    threaded = intervals(partial(mean, meet=together), 1500, draws=50)
    monkeypatch.setattr(bootstrap, "usable_cores", lambda: 1)
    assert intervals(mean, 1500, draws=50) == threaded
