"""How sure is a difference between two models? The paired percentile bootstrap over images (Efron, 1979)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.evaluator import Headline

_INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Difference:
    """A metric of one model less that of another, on the same images."""

    value: float  # on the images as they are; NaN where either has no value
    low: float  # of the 95 % interval; NaN where no draw has a value
    high: float
    fraction_above: float  # of the draws above 0; a draw of exactly 0 counts half
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
    values = _differences(model, base, np.ones(images, dtype=np.int64))
    drawn: dict[str, list[float]] = {key: [] for key in values}
    for weights in draw_weights(images, draws, seed):
        for key, difference in _differences(model, base, weights).items():
            drawn[key].append(difference)
    return {key: _summary(value, np.array(drawn[key])) for key, value in values.items()}


def remembered(headline: Headline) -> Headline:
    """A headline that is computed once for a draw, however many comparisons share the draws."""
    values: dict[bytes, dict[str, float]] = {}

    def once(weights: np.ndarray) -> dict[str, float]:
        key = weights.tobytes()
        if key not in values:
            values[key] = headline(weights)
        return values[key]

    return once


def intervals(headline: Headline, images: int, draws: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of the metrics of a headline, under the draws of `paired_differences`; NaN without a value."""
    drawn: dict[str, list[float]] = {}
    for weights in draw_weights(images, draws, seed):
        for key, value in headline(weights).items():
            drawn.setdefault(key, []).append(value)
    return {key: percentiles(np.array(values)) for key, values in drawn.items()}


def percentiles(drawn: np.ndarray) -> tuple[float, float]:
    """The ends of the 95 % interval of drawn values; NaN where all of them are."""
    counted = drawn[~np.isnan(drawn)]
    if not len(counted):
        return np.nan, np.nan
    low, high = np.percentile(counted, _INTERVAL).tolist()
    return low, high


def _differences(model: Headline, base: Headline, weights: np.ndarray) -> dict[str, float]:
    ours, theirs = model(weights), base(weights)
    return {key: value - theirs[key] for key, value in ours.items() if key in theirs}


def _summary(value: float, drawn: np.ndarray) -> Difference:
    counted = drawn[~np.isnan(drawn)]
    if not len(counted):
        return Difference(value, np.nan, np.nan, np.nan, len(drawn))
    above = float(np.mean((counted > 0) + 0.5 * (counted == 0)))
    return Difference(value, *percentiles(counted), above, len(drawn) - len(counted))
