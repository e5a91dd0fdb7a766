"""How well one number ranks errors: Spearman's ρ, AUROC and the area under the risk–coverage curve, with weights.

Each of n items has an uncertainty and counts `weight` times, a whole number from 0: so a bootstrap draws images by
weighting their items, and what takes long, the sorting, is done once. Equal values get their mean rank; the order
among items of equal uncertainty is averaged over.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import digamma, expit

_RIDGE = 1.0


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
    return float(rank_correlations([a, b], weights)[0, 1])


def rank_correlations(rankings: Sequence[Ranking], weights: np.ndarray) -> np.ndarray:
    """(k, k) Spearman's ρ of every two of k rankings; NaN where one of them is constant."""
    total = weights.sum()
    if not total:
        return np.full((len(rankings),) * 2, np.nan)
    ranks = np.stack([ranking.ranks(weights) for ranking in rankings])
    ranks -= (ranks @ weights / total)[:, None]
    products = (ranks * weights) @ ranks.T
    scale = np.sqrt(np.diag(products))
    scale[scale == 0] = np.nan
    correlations: np.ndarray = products / np.outer(scale, scale)
    return correlations


def partial_correlation(correlations: np.ndarray) -> float:
    """Of a (3, 3) matrix, that of the first two with the third held fixed; NaN where it is 0/0.

    (ρ_ab − ρ_ac ρ_bc) / √((1 − ρ_ac²)(1 − ρ_bc²)), of ranks Kendall's (1942).
    """
    ab, ac, bc = correlations[[0, 0, 1], [1, 2, 2]]
    left = (1 - ac**2) * (1 - bc**2)
    return float((ab - ac * bc) / np.sqrt(left)) if left > 1e-9 else float("nan")


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


def cross_fitted(features: np.ndarray, wrong: np.ndarray, groups: np.ndarray, folds: int = 5) -> np.ndarray | None:
    """(n,) one uncertainty made of (n, d): their sum, weighted by logistic regressions of "wrong" on the other folds.

    Weights have unit length and no intercept: between folds, these would rank by how much is wrong elsewhere.
    None where a fold leaves nothing wrong, or nothing right, to fit to.
    """
    fold, combined = groups % folds, np.zeros(len(wrong))
    spread = features.std(axis=0) if len(features) else np.ones(features.shape[1])
    x = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1) if len(features) else features
    for k in range(folds):
        own, others = fold == k, fold != k
        if wrong[others].all() or not wrong[others].any():
            return None
        weights = _logistic_fit(np.column_stack([x, np.ones(len(x))])[others], wrong[others])[:-1]
        combined[own] = x[own] @ (weights / np.linalg.norm(weights))
    return combined


def _logistic_fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients by Newton's method; a slight ridge keeps them finite where y can be told from x without error."""
    coefficients = np.zeros(x.shape[1])
    for _ in range(25):
        p = expit(x @ coefficients)
        gradient = x.T @ (y - p) - _RIDGE * coefficients
        coefficients += np.linalg.solve((x.T * (p * (1 - p))) @ x + _RIDGE * np.eye(len(coefficients)), gradient)
    return coefficients


def _cumulative(uncertainty: Ranking, loss: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = uncertainty.sums(weights)
    seen = counts > 0
    return np.cumsum(counts[seen]), np.cumsum(uncertainty.sums(weights * loss)[seen])
