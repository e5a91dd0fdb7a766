"""Paired comparisons: intervals, an exact sign-flip test, Holm's correction, equivalence, and differences within bases.

A pair is one base, seed and amount of data on which both arms were run; its difference is the arm's value less the
reference's. Formulas and sources: docs/ablation.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.95  # of every interval but the equivalence test's, whose level is 1 − 2α
MOST_FLIPPED = 20  # pairs up to which all 2^n flips are counted
FLIPS = 100_000  # drawn at random for more pairs
DRAWS = 10_000  # of the hierarchical bootstrap
_SEED = 0
_TIE = 1e-9  # sums of differences as close as this, in units of their sum of sizes, are equal
_NO_SPREAD = 1e-9  # a standard deviation up to here is rounding: results have six decimals


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided t-tests of a mean against ±margin (Schuirmann, 1987; Lakens, 2017)."""

    p_above: float  # of the hypothesis that the mean is −margin or less
    p_below: float  # of the hypothesis that the mean is +margin or more
    interval: Interval  # of level 1 − 2α: of one test, it lies within ±margin exactly where p < α

    @property
    def p(self) -> float:
        return max(self.p_above, self.p_below)


@dataclass(frozen=True)
class MeanTest:
    """The mean of n differences; NaN where n is too small for a value."""

    n: int
    mean: float
    sd: float  # of the differences, by n − 1
    interval: Interval
    p: float  # two-sided, of the hypothesis of no difference; 1 where n is too small for a test
    equivalence: Equivalence

    @property
    def effect_size(self) -> float:
        """Cohen's dz, the mean in standard deviations of the differences; NaN where these do not vary."""
        return self.mean / self.sd if self.sd > 0 else math.nan


@dataclass(frozen=True)
class OverBases:
    """What the differences say of further bases: seeds of one base are not independent of each other."""

    means: Mapping[str, float]  # of each base's differences
    test: MeanTest  # by t, of those means: n is the number of bases
    bootstrap: Interval  # percentiles; bases are drawn first, then pairs within each; NaN for one base
    between: float  # share of the variance that lies between bases (intraclass correlation), 0 to 1; NaN if unknown

    @property
    def agreeing(self) -> int:
        """Bases whose mean has the sign of the mean of all."""
        return sum(mean * self.test.mean > 0 for mean in self.means.values())


def mean_interval(values: ArrayLike, level: float = LEVEL) -> tuple[float, float, float]:
    """Mean and Student's t-interval of values (n,); the bounds are NaN where n < 2, the mean where n = 0."""
    x = np.asarray(values, dtype=np.float64)
    if not len(x):
        return math.nan, math.nan, math.nan
    mean = float(x.mean())
    half = float(stats.t.ppf(0.5 + level / 2, len(x) - 1)) * _standard_error(x) if len(x) > 1 else math.nan
    return mean, mean - half, mean + half


def sign_flip_p(differences: ArrayLike) -> float:
    """Two-sided p of differences (n,) under random signs: how often is the mean as far from 0 as it is?

    Exact, over all 2^n signs, up to n = `MOST_FLIPPED`, so never below 2/2^n; for more, by Monte Carlo with a fixed
    seed, (hits + 1) / (`FLIPS` + 1). 1 where n = 0.
    """
    d = np.asarray(differences, dtype=np.float64)
    if not d.any():
        return 1.0
    enough = abs(d.sum()) - _TIE * np.abs(d).sum()
    if len(d) > MOST_FLIPPED:
        generator = np.random.default_rng(_SEED)
        signs = generator.integers(0, 2, size=(FLIPS, len(d)), dtype=np.int8) * 2 - 1
        return float((np.count_nonzero(np.abs(signs @ d) >= enough) + 1) / (FLIPS + 1))
    sums = d[:1]  # the other half of the signs gives the same sums, negated
    for one in d[1:]:
        sums = np.concatenate([sums + one, sums - one])
    return float(np.mean(np.abs(sums) >= enough))


def holm(p: ArrayLike) -> Floats:
    """Holm's step-down adjustment of p values (m,): the i-th smallest, times m − i + 1, at least its predecessor's.

    Rejecting where the adjusted value is below α keeps the chance of any false rejection below α (Holm, 1979).
    """
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def equivalence_test(differences: ArrayLike, margin: float, alpha: float = 0.05) -> Equivalence:
    """Test differences (n,) for a mean within ±margin. Both p are 1 where n < 2."""
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        return Equivalence(1.0, 1.0, (math.nan, math.nan))
    mean, low, high = mean_interval(d, 1 - 2 * alpha)
    error = _standard_error(d)
    p_above, p_below = (_upper_tail(distance, error, len(d) - 1) for distance in (mean + margin, margin - mean))
    return Equivalence(p_above, p_below, (low, high))


def pair_test(differences: ArrayLike, margin: float, alpha: float = 0.05) -> MeanTest:
    """Test differences (n,) as independent pairs: p by sign flips, intervals and equivalence by t."""
    return _mean_test(differences, sign_flip_p(differences), margin, alpha)


def base_test(differences: ArrayLike, bases: Sequence[str], margin: float, alpha: float = 0.05) -> OverBases:
    """Test the means of each base's differences; `bases` (n,) names the base of each difference."""
    d = np.asarray(differences, dtype=np.float64)
    groups = {base: d[[other == base for other in bases]] for base in sorted(set(bases))}
    means = {base: float(group.mean()) for base, group in groups.items()}
    values = np.array(list(means.values()))
    p = 1.0
    if len(values) > 1:
        p = min(1.0, 2 * _upper_tail(abs(values.mean()), _standard_error(values), len(values) - 1))
    test = _mean_test(values, p, margin, alpha)
    return OverBases(means, test, _bootstrap(list(groups.values())), _between(list(groups.values())))


def effective_pairs(n: int, bases: int, between: float) -> float:
    """Independent pairs that n pairs in as many bases are worth: n / (1 + (n / bases − 1) · between) (Kish, 1965)."""
    return n / (1 + (n / bases - 1) * between) if bases else math.nan


def _mean_test(differences: ArrayLike, p: float, margin: float, alpha: float) -> MeanTest:
    d = np.asarray(differences, dtype=np.float64)
    mean, low, high = mean_interval(d)
    sd = _deviation(d) if len(d) > 1 else math.nan
    return MeanTest(len(d), mean, sd, (low, high), p, equivalence_test(d, margin, alpha))


def _deviation(x: Floats) -> float:
    found = float(x.std(ddof=1))
    return found if found > _NO_SPREAD else 0.0


def _standard_error(x: Floats) -> float:
    return _deviation(x) / math.sqrt(len(x))


def _upper_tail(distance: float, error: float, freedom: int) -> float:
    """P(T > distance / error); without any spread 0 for a positive distance, ½ at 0, else 1."""
    if error > 0:
        return float(stats.t.sf(distance / error, freedom))
    return 0.5 - 0.5 * float(np.sign(distance))


def _bootstrap(groups: Sequence[Floats]) -> Interval:
    """95 % percentile interval of the mean of base means; NaN with fewer than two bases, whose spread is unknown."""
    if len(groups) < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(_SEED)
    sizes = np.array([len(group) for group in groups])
    values = np.zeros((len(groups), sizes.max()))
    for row, group in zip(values, groups, strict=True):
        row[: len(group)] = group
    means = np.zeros(DRAWS)
    for _ in groups:
        picked = generator.integers(len(groups), size=(DRAWS, 1))
        places = (generator.random((DRAWS, sizes.max())) * sizes[picked]).astype(np.int64)
        counted = np.arange(sizes.max()) < sizes[picked]
        means += (values[picked, places] * counted).sum(axis=1) / sizes[picked[:, 0]] / len(groups)
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]).tolist()
    return low, high


def _between(groups: Sequence[Floats]) -> float:
    """Intraclass correlation by one-way analysis of variance, of groups of any sizes (Shrout & Fleiss, 1979)."""
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    total, count = sizes.sum(), len(groups)
    if count < 2 or total <= count:
        return math.nan
    means = np.array([group.mean() for group in groups])
    grand = float((sizes * means).sum() / total)
    between = float((sizes * (means - grand) ** 2).sum()) / (count - 1)
    within = float(sum(((group - group.mean()) ** 2).sum() for group in groups)) / (total - count)
    size = (total - (sizes**2).sum() / total) / (count - 1)
    spread = between + (size - 1) * within
    return float(np.clip((between - within) / spread, 0.0, 1.0)) if spread > _NO_SPREAD**2 else math.nan
