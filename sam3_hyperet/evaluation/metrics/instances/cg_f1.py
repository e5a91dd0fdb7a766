"""cgF1, SAM 3's classification-gated F1 (arXiv 2511.16719): does it find what is there, and only that?

The unit is a pair of an image and a concept. Detections of a score of 0.5 and more are claims; crowds are no
ground truths, and a claim on one is false. Claims and ground truths of a pair are assigned one to one by the largest
sum of IoU; those of IoU ≥ t are true positives. Summed over pairs,

    cgF1 = positive_micro_F1 · IL_MCC
    positive_micro_F1 = F1 of ΣTP, ΣFN and the ΣFP of the pairs that have ground truths, mean over t = .50:.05:.95
    IL_MCC = Matthews correlation, over pairs, of "has ground truths" with "has claims"

SAM 3's small constants are kept: 1e-4 in each ratio over instances, 1e-6 in those over pairs; -1 where nothing counts.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from sam3_hyperet.evaluation.metrics.matthews import is_measured, matthews

SCORE_THRESHOLD = 0.5
_EPS, _PAIR_EPS = 1e-4, 1e-6
_AT: dict[str, list[int]] = {"": list(range(10)), "@0.5": [0], "@0.75": [5]}  # positions in .50:.05:.95


def true_positives(ious: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(T,) claims that are right at each IoU threshold (T,); ious: (claims, ground truths) of one pair."""
    assigned = ious[linear_sum_assignment(-ious)]
    right: np.ndarray = (assigned >= thresholds[:, None]).sum(axis=1)
    return right


def pair_sums(instances: np.ndarray, claimed: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """What cgF1 needs of pairs, so that sums over images are enough: (..., 5 T + 4) float64.

    instances, claimed: (..., P) ground truths and claims of each pair; hits: (..., P, T) true positives; summed over P.
    """
    n, d, tp = (np.asarray(x, dtype=np.float64) for x in (instances, claimed, hits))
    there, said = n > 0, d > 0
    fp, fn = d[..., None] - tp, n[..., None] - tp
    f1 = local_f1(n, d, tp)
    by_threshold = [tp, fp, fn, fp * there[..., None], f1 * there[..., None]]
    by_pair = [there & said, there & ~said, ~there & said, ~there & ~said]
    sums = np.stack([x.sum(axis=-2) for x in by_threshold], axis=-2)
    counts = np.stack([x.sum(axis=-1) for x in by_pair], axis=-1)
    return np.concatenate([sums.reshape(*sums.shape[:-2], -1), counts], axis=-1)


def local_f1(instances: np.ndarray, claimed: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """(..., T) F1 of each pair at each threshold; the arguments as for `pair_sums`."""
    return _f1(_ratio(hits, claimed[..., None]), _ratio(hits, instances[..., None]))


def cg_f1_metrics(sums: np.ndarray) -> dict[str, float]:
    """SAM 3's metrics by its names: cgF1, positive_micro_F1, IL_MCC and the rest, mean over thresholds and at two.

    sums: (5 T + 4,) of `pair_sums`, added over images.
    """
    tp, fp, fn, positive_fp, f1 = sums[:-4].reshape(5, -1)
    both, missed, invented, neither = sums[-4:].tolist()
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    il_precision, il_recall = (both / (both + wrong + _PAIR_EPS) for wrong in (invented, missed))
    positive_f1, mcc = positive_micro_f1(sums), il_mcc(sums)
    by_threshold = {
        "cgF1": positive_f1 * mcc,
        "precision": precision,
        "recall": recall,
        "F1": _f1(precision, recall),
        "positive_macro_F1": f1 / both if both else np.full_like(f1, -1),
        "positive_micro_F1": positive_f1,
        "positive_micro_precision": _ratio(tp, tp + positive_fp),
    }
    metrics = {f"{name}{at}": float(np.mean(v[which])) for at, which in _AT.items() for name, v in by_threshold.items()}
    return metrics | {
        "IL_precision": il_precision,
        "IL_recall": il_recall,
        "IL_F1": 2 * il_precision * il_recall / (il_precision + il_recall + _PAIR_EPS),
        "IL_FPR": invented / (invented + neither + _PAIR_EPS),
        "IL_MCC": mcc,
    }


def cg_f1(sums: np.ndarray) -> float:
    """cgF1 alone; the argument as for `cg_f1_metrics`."""
    return float(positive_micro_f1(sums).mean()) * il_mcc(sums)


def positive_micro_f1(sums: np.ndarray) -> np.ndarray:
    """(T,) F1 over the pairs that have ground truths; the argument as for `cg_f1_metrics`."""
    tp, _, fn, positive_fp, _ = sums[:-4].reshape(5, -1)
    return _f1(_ratio(tp, tp + positive_fp), _ratio(tp, tp + fn))


def il_mcc(sums: np.ndarray) -> float:
    """Matthews correlation of what is there with what is claimed; the argument as for `cg_f1_metrics`."""
    both, missed, invented, neither = sums[-4:].tolist()
    return matthews(both, invented, missed, neither)


def has_both_sides(sums: np.ndarray) -> bool:
    """Whether some pairs have ground truths and others none; else IL_MCC, and so cgF1, is 0 for every model."""
    both, missed, invented, neither = sums[-4:].tolist()
    return is_measured(both, invented, missed, neither)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = part / (whole + _EPS)
    return ratio


def _f1(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    f1: np.ndarray = 2 * precision * recall / (precision + recall + _EPS)
    return f1
