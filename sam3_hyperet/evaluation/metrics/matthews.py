"""Matthews correlation of what is there with what is found, in SAM 3's form."""

import math

_EPS = 1e-6  # SAM 3's, over pairs of an image and a concept


def matthews(tp: float, fp: float, fn: float, tn: float) -> float:
    """(TP·TN − FP·FN) / (√((TP+FP)(TP+FN)(TN+FP)(TN+FN)) + 1e-6); 0 where a factor is 0, as in SAM 3's evaluator."""
    scale = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / (scale + _EPS)


def is_measured(tp: float, fp: float, fn: float, tn: float) -> bool:
    """Whether both sides of the truth have pairs; without one the correlation is 0/0, whatever a model finds."""
    return tp + fn > 0 and fp + tn > 0
