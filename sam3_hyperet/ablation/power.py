"""Planning: how many pairs a comparison needs to find a difference, or to show that there is none."""

import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from sam3_hyperet.ablation.statistics import Floats

_MOST = 100_000  # pairs
_STRIPS = 2_000  # of the distribution of the standard deviation


def power_of_difference(n: int, sd: float, difference: float, alpha: float = 0.05) -> float:
    """Chance that a two-sided paired t-test of n pairs finds a true difference.

    sd: standard deviation of the differences of pairs. The chance is averaged over the distribution of the sample's own
    standard deviation s, which is the noncentral t-distribution's (scipy's has errors in its far tails).
    """
    if n < 2:
        return 0.0
    if sd <= 0:
        return 1.0 if difference else alpha
    shift = abs(difference) / sd * math.sqrt(n)
    limits = float(stats.t.isf(alpha / 2, n - 1)) * _spreads(n)
    return float(np.mean(stats.norm.cdf(shift - limits) + stats.norm.cdf(-shift - limits)))


def power_of_equivalence(n: int, sd: float, margin: float, alpha: float = 0.05, difference: float = 0.0) -> float:
    """Chance that two one-sided t-tests of n pairs show a true difference to be within ±margin.

    The mean has to lie within ±(margin − t·s/√n); the chance is averaged over the distribution of s.
    """
    if n < 2:
        return 0.0
    if sd <= 0:
        return float(abs(difference) < margin)
    error = sd / math.sqrt(n)
    room = margin / error - float(stats.t.isf(alpha, n - 1)) * _spreads(n)
    shift = difference / error
    inside = stats.norm.cdf(room - shift) - stats.norm.cdf(-room - shift)
    return float(np.mean(np.where(room > 0, inside, 0.0)))


def pairs_for_difference(sd: float, difference: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Least number of pairs that finds a true difference with this power; None if above 100,000.

    At least as many as an exact sign-flip test needs to reach α at all: its p is never below 2/2^n.
    """
    found = _least(lambda n: power_of_difference(n, sd, difference, alpha), power)
    return None if found is None else max(found, math.floor(math.log2(2 / alpha)) + 1)


def pairs_for_equivalence(
    sd: float, margin: float, alpha: float = 0.05, power: float = 0.8, difference: float = 0.0
) -> int | None:
    """Least number of pairs that shows a true difference to be within ±margin; None if above 100,000."""
    if abs(difference) >= margin:
        return None
    return _least(lambda n: power_of_equivalence(n, sd, margin, alpha, difference), power)


def pairs_for_decision(mean: float, sd: float, margin: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Least number of pairs that finds `mean` different from 0 or within ±margin, whichever takes fewer.

    None if above 100,000.
    """
    difference = pairs_for_difference(sd, mean, alpha, power) if mean else None
    equivalence = pairs_for_equivalence(sd, margin, alpha, power, mean)
    return min((n for n in (difference, equivalence) if n is not None), default=None)


def _spreads(n: int) -> Floats:
    """Standard deviations of samples of n in units of the true one: the middles of strips of equal chance."""
    chances = (np.arange(_STRIPS) + 0.5) / _STRIPS
    return np.asarray(np.sqrt(stats.chi2.ppf(chances, n - 1) / (n - 1)), dtype=np.float64)


def _least(power_of: Callable[[int], float], power: float) -> int | None:
    high = 2
    while power_of(high) < power:
        high *= 2
        if high > _MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle, high)
    return high
