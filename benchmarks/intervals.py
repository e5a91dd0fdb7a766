"""How often a 95 % interval excludes 0 where two models do not differ: percentiles, BCa, and the interval that is used.

Two models of one skill see the same images, some of which are harder for both; nominal is 5 % of the pairs of models.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from benchmarks import timing
from sam3_hyperet.evaluation import bootstrap

Floats = NDArray[np.float64]
Metric = Callable[[Floats], Floats]
"""Values (draws,) for (draws, images) how often each image counts; NaN where nothing is to find."""

IMAGES = (2, 4, 6, 10, 20, 40, 100)
METHODS = ("percentiles", "BCa", "t")
CATEGORIES = 3
_LEVEL = 0.95


def run(trials: int = 500, draws: int = 300) -> dict[str, float]:
    """Print and return the percentage of pairs whose interval excludes 0, by metric, method and number of images.

    `t` is `bootstrap.interval`, but for its least number of images. Where there is no interval, 0 is not excluded.

    Returns:
        `intervals/<metric>/<method>/<images>`.
    """
    rng = np.random.default_rng(0)
    kinds: dict[str, Callable[[int], tuple[Metric, Metric]]] = {
        "a mean, normal": lambda n: (_mean(rng.normal(size=n)), _mean(rng.normal(size=n))),
        "presence, 10 prompts an image": partial(_presence, rng),
        "AP, 2.1 instances an image": partial(_ap_pair, rng, 0.7),
        "AP, 0.45 instances an image": partial(_ap_pair, rng, 0.15),
    }
    found: dict[str, float] = {}
    rows: list[tuple[str, ...]] = []
    for kind, pair in kinds.items():
        wrong = {method: dict.fromkeys(IMAGES, 0) for method in METHODS}
        for images in IMAGES:
            for _ in range(trials):
                for method, (low, high) in _intervals(*pair(images), images, draws, rng).items():
                    wrong[method][images] += not low <= 0 <= high if np.isfinite(low) else 0
        for method, counts in wrong.items():
            percents = {images: 100 * count / trials for images, count in counts.items()}
            rows.append((kind, method, *(f"{value:.1f}" for value in percents.values())))
            found |= {f"intervals/{kind}/{method}/{images}": value for images, value in percents.items()}
    title = "Pairs of equal models whose 95 % interval excludes 0, in percent, by the number of images"
    timing.print_table(title, ("metric", "interval", *map(str, IMAGES)), rows)
    return found


def _intervals(
    one: Metric, other: Metric, images: int, draws: int, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Each method's interval of the difference, from the same draws; none without a value."""

    def difference(weights: Floats) -> Floats:
        return one(weights) - other(weights)

    value = float(difference(np.ones((1, images)))[0])
    drawn = difference(rng.multinomial(images, np.full(images, 1 / images), draws).astype(float))
    counted = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(counted) < 2:
        return {}
    left_out = difference(1.0 - np.eye(images))
    tail, is_used = (1 - _LEVEL) / 2, len(counted) >= (1 - bootstrap.MOST_DROPPED) * draws
    return {
        "percentiles": _quantiles(counted, tail, 1 - tail),
        "BCa": _bca(value, counted, left_out[~np.isnan(left_out)], tail),
        "t": bootstrap.t_interval(value, counted, images) if is_used else (np.nan, np.nan),
    }


def _bca(value: float, drawn: Floats, left_out: Floats, tail: float) -> tuple[float, float]:
    """Bias-corrected and accelerated percentiles (Efron, 1987)."""
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    bias = float(ndtri(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn))))
    influence = left_out.mean() - left_out if len(left_out) else np.zeros(1)
    spread = float((influence**2).sum())
    acceleration = float((influence**3).sum()) / (6 * spread**1.5) if spread else 0.0
    z = bias + ndtri(np.array([tail, 1 - tail]))
    low, high = ndtr(bias + z / (1 - acceleration * z)).tolist()
    return _quantiles(drawn, low, high)


def _quantiles(drawn: Floats, low: float, high: float) -> tuple[float, float]:
    ends = np.quantile(drawn, [low, high]).tolist()
    return ends[0], ends[1]


def _mean(values: Floats) -> Metric:
    return lambda weights: weights @ values / weights.sum(axis=1)


def _presence(rng: np.random.Generator, images: int) -> tuple[Metric, Metric]:
    """Fractions of ten prompts an image that are right, 9 in 10 on average, fewer on hard images."""
    right = 1 / (1 + np.exp(-2.5 - rng.normal(size=images)))
    return _mean(rng.binomial(10, right) / 10), _mean(rng.binomial(10, right) / 10)


def _ap_pair(rng: np.random.Generator, instances: float, images: int) -> tuple[Metric, Metric]:
    """APs of two detectors that find half of the instances, with a false alarm an image and category."""
    truths, ease = rng.poisson(instances, (images, CATEGORIES)), rng.normal(size=images)
    return _ap(rng, truths, ease), _ap(rng, truths, ease)


def _ap(rng: np.random.Generator, truths: NDArray[np.int64], ease: Floats) -> Metric:
    """Mean over the categories of the area under the precision envelope, at one IoU threshold."""
    parts = []
    for of_category in truths.T:
        hits, alarms = rng.binomial(of_category, 1 / (1 + np.exp(-ease))), rng.poisson(1.0, len(ease))
        image = np.repeat(np.concatenate([np.arange(len(ease))] * 2), [*hits, *alarms])
        right = np.repeat([1.0, 0.0], [hits.sum(), alarms.sum()])
        order = np.argsort(-rng.normal(right), kind="stable")
        parts.append((image[order], right[order], of_category))

    def metric(weights: Floats) -> Floats:
        found = []
        for image, right, of_category in parts:
            counts = weights[:, image]
            precision = np.cumsum(counts * right, axis=1) / np.maximum(np.cumsum(counts, axis=1), 1e-9)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            there = weights @ of_category
            found.append(np.where(there > 0, (envelope * counts * right).sum(axis=1) / np.maximum(there, 1), np.nan))
        values = np.array(found)
        known = ~np.isnan(values)
        mean: Floats = np.where(known, values, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
        return mean

    return metric
