"""Does the model know what is not there? Presence as image-level classification of (image, prompt) pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.metrics.evaluator import Headline, Record
from sam3_hyperet.inference.predictor import PromptPrediction

_ABSENT, _PRESENT, _UNKNOWN = 0, 1, 2


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
        return presence_metrics(self.counts)


def presence_metrics(counts: np.ndarray) -> dict[str, float]:
    """`PresenceAccuracy.evaluate` of counts, int (2, 2): is there x said to be there."""
    (true_negatives, false_positives), (false_negatives, true_positives) = counts.tolist()
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


class PresenceEvaluator:
    """Presence of each category on each picture, absent ones included.

    A category that a picture shows as a crowd alone is neither present nor absent there.

    Args:
        category_of: the category id of each prompt that names one.
        shown: position -> ids of the categories that the picture shows as instances, and as crowds.
        groups: category ids by name; each group is reported below its name as well.
        threshold: probability from which the model says that a concept is there.
    """

    def __init__(
        self,
        category_of: Mapping[int, int],
        shown: Callable[[int], tuple[Collection[int], Collection[int]]],
        groups: Mapping[str, Collection[int]] | None = None,
        threshold: float = 0.5,
    ) -> None:
        self.category_of = dict(category_of)
        self.shown = shown
        self.threshold = threshold
        ids = np.array(sorted(self.category_of.values()))
        self._column = {category_id: column for column, category_id in enumerate(ids.tolist())}
        self._members = {name: np.isin(ids, list(members)) for name, members in (groups or {}).items()}
        self._members[""] = np.ones(len(ids), dtype=bool)

    def start(self, i: int) -> None:
        instances, crowds = self.shown(i)
        self._probability = np.zeros(len(self._column))
        self._truth = np.full(len(self._column), _ABSENT, dtype=np.uint8)
        for category_id, column in self._column.items():
            if category_id in instances:
                self._truth[column] = _PRESENT
            elif category_id in crowds:
                self._truth[column] = _UNKNOWN

    def add(self, k: int, answer: PromptPrediction) -> None:
        if k in self.category_of:
            if not 0 <= answer.presence <= 1:
                raise DataError(f"presence: the probability {answer.presence} is not a number in [0, 1]")
            self._probability[self._column[self.category_of[k]]] = answer.presence

    def finish(self) -> dict[str, np.ndarray]:
        return {"probability": self._probability, "truth": self._truth}

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        """`presence/IL_MCC` and the other keys of `PresenceAccuracy`, and the same below each group's name."""
        metrics = {}
        for name, counts in self._counts(records).items():
            figures = presence_metrics(counts.sum(axis=0))
            metrics |= {f"{name}/{key}".lstrip("/"): value for key, value in figures.items()}
        return metrics

    def headline(self, records: Sequence[Record]) -> Headline:
        """`presence/IL_MCC`, `presence/accuracy_present` and `presence/accuracy_absent`, and the same below each
        group's name; NaN without such a pair."""
        counts = self._counts(records)
        keys = [f"presence/{name}" for name in ("IL_MCC", "accuracy_present", "accuracy_absent")]

        def accuracy(weights: np.ndarray) -> dict[str, float]:
            found = {}
            for name, of_pictures in counts.items():
                figures = presence_metrics(np.tensordot(weights, of_pictures, axes=1))
                found |= {f"{name}/{key}".lstrip("/"): figures.get(key, math.nan) for key in keys}
            return found

        return accuracy

    def _counts(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """(n, 2, 2) of each group: is there x said to be there, by picture."""
        truth = np.stack([record["truth"] for record in records])
        said = np.stack([record["probability"] for record in records]) >= self.threshold
        return {
            name: np.stack(
                [
                    np.stack([((truth == there) & (said == saying) & members).sum(axis=1) for saying in (False, True)])
                    for there in (_ABSENT, _PRESENT)
                ]
            ).transpose(2, 0, 1)
            for name, members in self._members.items()
        }
