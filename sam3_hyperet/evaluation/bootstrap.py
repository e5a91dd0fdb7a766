"""How sure is a difference between two models? Intervals from the paired bootstrap over images (Efron, 1979).

The interval is the metric ± t · s √(n / (n − 1)): s is the standard deviation over the draws, t Student's 97.5 %
quantile with n − 1 degrees of freedom for n images. Percentiles of the draws are narrower by both factors, which on few
images are large, and lie off the metric where the draws are biased, as those of an AP are. docs/evaluation.md has how
often each excludes 0 where there is no difference.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.evaluator import Headline
from sam3_hyperet.training.loaders import usable_cores

FEWEST_IMAGES = 10  # below, nothing gets an interval
_MANY_IMAGES, _MOST_THREADS = 1000, 4  # numpy lets go of Python's lock; each thread has sums over all detections
MOST_DROPPED = 0.01  # of the draws without a value: with more, the metric rests on fewer than five of the images


@dataclass(frozen=True)
class Difference:
    """A metric of one model less that of another, on the same images."""

    value: float  # on the images as they are; NaN where either has no value
    low: float  # of the 95 % interval; NaN where there is none (see `interval`)
    high: float
    dropped: int  # draws that gave no value, for instance because nothing was to find in the drawn images


def draw_weights(images: int, draws: int, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each image counts, int (images,), in each of `draws` samples with replacement of that size."""
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(generator.integers(images, size=images), minlength=images)


def paired_differences(
    model: Headline, base: Headline, images: int, draws: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """The differences model - base of all metrics that both headlines have, under the same draws of the images.

    A headline has NaN where there is no value. Raises ConfigError without draws, DataError without images.
    """
    if draws < 1:
        raise ConfigError(f"bootstrap draws={draws}; expected an integer from 1")
    if images < 1:
        raise DataError("a bootstrap needs images; there are none")

    def difference(weights: np.ndarray) -> dict[str, float]:
        ours, theirs = model(weights), base(weights)
        return {key: value - theirs[key] for key, value in ours.items() if key in theirs}

    values, drawn = _drawn(difference, images, draws, seed)
    return {
        key: Difference(value, *interval(value, drawn[key], images), int(np.isnan(drawn[key]).sum()))
        for key, value in values.items()
    }


def remembered(headline: Headline) -> Headline:
    """A headline that is computed once for a draw, however many comparisons share the draws."""
    values: dict[bytes, dict[str, float]] = {}

    def once(weights: np.ndarray) -> dict[str, float]:
        key = hashlib.sha256(weights.data).digest()
        if key not in values:
            values[key] = headline(weights)
        return values[key]

    return once


def intervals(headline: Headline, images: int, draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of the metrics of a headline, under the draws of `paired_differences`; NaN where none."""
    values, drawn = _drawn(headline, images, draws, seed)
    return {key: interval(value, drawn[key], images) for key, value in values.items()}


def interval(value: float, drawn: np.ndarray, images: int) -> tuple[float, float]:
    """The 95 % interval of a metric that has this value, and (draws,) drawn ones, NaN for a draw without a value.

    NaN, that is none, of fewer than `FEWEST_IMAGES`, and where more than `MOST_DROPPED` of the draws have no value.
    """
    counted = drawn[~np.isnan(drawn)]
    if images < FEWEST_IMAGES or len(counted) < max(2, (1 - MOST_DROPPED) * len(drawn)):
        return np.nan, np.nan
    return t_interval(value, counted, images)


def t_interval(value: float, drawn: np.ndarray, images: int) -> tuple[float, float]:
    """value ± t · s √(n / (n − 1)) of a value and (draws,) drawn ones, at least two, of n images."""
    error = float(drawn.std(ddof=1)) * (images / (images - 1)) ** 0.5
    half = float(stdtrit(images - 1, 0.975)) * error
    return value - half, value + half


def _drawn(headline: Headline, images: int, draws: int, seed: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The metrics of all images, and of each draw, in the draws' order; of too few images none is drawn."""
    values = headline(np.ones(images, dtype=np.int64))
    found: dict[str, list[float]] = {key: [] for key in values}
    weights = draw_weights(images, draws, seed) if images >= FEWEST_IMAGES else ()
    with ThreadPoolExecutor(min(_MOST_THREADS, usable_cores()) if images >= _MANY_IMAGES else 1) as pool:
        for drawn in pool.map(headline, weights):
            for key in found:
                found[key].append(drawn[key])
    return values, {key: np.array(of_key, float) for key, of_key in found.items()}
