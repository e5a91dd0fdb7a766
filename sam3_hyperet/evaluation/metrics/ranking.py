"""How well one number ranks errors: Spearman's ρ, AUROC and the area under the risk–coverage curve, with weights.

Each of n items has an uncertainty and counts `weight` times, a whole number from 0: so a bootstrap draws images by
weighting their items, and what takes long, the sorting, is done once. Equal values get their mean rank; the order
among items of equal uncertainty is averaged over.
"""

import numpy as np
from scipy.special import digamma


class Ranking:
    """The order of (n,) finite values."""

    def __init__(self, values: np.ndarray) -> None:
        distinct, self._group = np.unique(values, return_inverse=True)
        self._groups = len(distinct)

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """(groups,) sums of (n,) weights over items of equal value, smallest value first."""
        return np.bincount(self._group, weights, minlength=self._groups)

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """(n,) mean ranks, from 1, each item counting `weights` times."""
        counts = self.sums(weights)
        return (np.cumsum(counts) - (counts - 1) / 2)[self._group]


def spearman(a: Ranking, b: Ranking, weights: np.ndarray) -> float:
    """Spearman's ρ: the correlation of the ranks; NaN where one of the two is constant."""
    x, y = a.ranks(weights), b.ranks(weights)
    total = weights.sum()
    if not total:
        return float("nan")
    x, y = x - weights @ x / total, y - weights @ y / total
    scale = np.sqrt((weights @ x**2) * (weights @ y**2))
    return float((weights * x) @ y / scale) if scale > 0 else float("nan")


def auroc(uncertainty: Ranking, wrong: np.ndarray, weights: np.ndarray) -> float:
    """Probability that a wrong item is more uncertain than a right one, half of it where they are equal; NaN where all
    or none are wrong. Below 1/2, the larger value means the right one."""
    bad, good = weights @ wrong, weights @ ~wrong
    if not (bad and good):
        return float("nan")
    rank_sum = (weights * wrong) @ uncertainty.ranks(weights)
    return float((rank_sum - bad * (bad + 1) / 2) / (bad * good))


def risk_coverage(uncertainty: Ranking, loss: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fraction of the items kept, least uncertain first, and their mean loss, for each distinct uncertainty."""
    kept, lost = _cumulative(uncertainty, loss, weights)
    return kept / kept[-1], lost / kept


def aurc(uncertainty: Ranking, loss: np.ndarray, weights: np.ndarray) -> float:
    """Area under the risk–coverage curve: the mean loss of the k least uncertain items, averaged over k = 1 … n; NaN
    without an item.

    After K items of total loss L, a group of m equal ones of mean loss l adds Σ_j (L + j l) / (K + j), j = 1 … m, which
    is m l + (L − K l)(ψ(K + m + 1) − ψ(K + 1)).
    """
    kept, lost = _cumulative(uncertainty, loss, weights)
    if not len(kept):
        return float("nan")
    before, lost_before = np.append(0, kept[:-1]), np.append(0, lost[:-1])
    count = kept - before
    mean = (lost - lost_before) / count
    area = count * mean + (lost_before - before * mean) * (digamma(kept + 1) - digamma(before + 1))
    return float(area.sum() / kept[-1])


def _cumulative(uncertainty: Ranking, loss: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = uncertainty.sums(weights)
    seen = counts > 0
    return np.cumsum(counts[seen]), np.cumsum(uncertainty.sums(weights * loss)[seen])
