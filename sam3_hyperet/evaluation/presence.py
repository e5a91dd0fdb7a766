"""Does the model know what is not there? Presence as image-level classification of (image, prompt) pairs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from sam3_hyperet.errors import DataError


class PresenceAccuracy:
    """Counts (image, prompt) pairs by whether the concept is there and whether the model says so.

    The model says so where its probability (of presence, or its best score) is at least `threshold`.
    Keys of `evaluate`: `presence/accuracy_present` and `presence/accuracy_absent`, each only where such pairs
    were seen; `presence/IL_MCC`, the Matthews correlation with SAM 3's 1e-6 in the denominator (0 where one
    side is empty); and the counts `presence/true_positives` … .
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        """counts: (2, 2), is there x said to be there."""
        self.counts = np.zeros((2, 2), dtype=np.int64)

    def process(self, probability: ArrayLike, present: ArrayLike) -> None:
        """Add pairs: probability in [0, 1] and whether present, of one shape (or two scalars)."""
        p, truth = np.asarray(probability, dtype=np.float64), np.asarray(present, dtype=bool)
        if p.shape != truth.shape:
            raise DataError(f"presence: {p.shape} probabilities for {truth.shape} truths")
        if not ((p >= 0) & (p <= 1)).all():
            raise DataError("presence: a probability is not a number in [0, 1]")
        np.add.at(self.counts, (truth.astype(int).ravel(), (p >= self.threshold).astype(int).ravel()), 1)

    def merge(self, other: PresenceAccuracy) -> None:
        """Add what another process has counted."""
        self.counts += other.counts

    def evaluate(self) -> dict[str, float]:
        (true_negatives, false_positives), (false_negatives, true_positives) = self.counts.tolist()
        positives, negatives = true_positives + false_negatives, true_negatives + false_positives
        said, unsaid = true_positives + false_positives, true_negatives + false_negatives
        covariance = true_positives * true_negatives - false_positives * false_negatives
        metrics: dict[str, float] = {
            "presence/IL_MCC": covariance / (math.sqrt(said * positives * negatives * unsaid) + 1e-6),
            "presence/true_positives": true_positives,
            "presence/false_negatives": false_negatives,
            "presence/true_negatives": true_negatives,
            "presence/false_positives": false_positives,
        }
        if positives:
            metrics["presence/accuracy_present"] = true_positives / positives
        if negatives:
            metrics["presence/accuracy_absent"] = true_negatives / negatives
        return metrics
