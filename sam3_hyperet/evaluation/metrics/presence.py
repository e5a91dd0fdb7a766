"""Presence as an image-level classification of (image, prompt) pairs: are absent concepts recognised as absent?"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.metrics.evaluator import Headline, Prompt, Record
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.inference.prediction import PromptDetections
from sam3_hyperet.inference.predictor import Encoded

_ABSENT, _PRESENT, _UNKNOWN = 0, 1, 2


def presence_metrics(counts: np.ndarray) -> dict[str, float]:
    """Metrics of counts, int (2, 2), of pairs: present or absent in rows, predicted to be in columns.

    Returns:
        `presence/accuracy_present` and `presence/accuracy_absent`, each only where there are such pairs;
        `presence/IL_MCC`, the Matthews correlation with SAM 3's 1e-6 in the denominator (0 where one side is empty);
        the counts `presence/true_positives`, `presence/false_negatives` and so on.
    """
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
    """Presence of each category on each image, absent ones included.

    A category that an image shows as a crowd alone is neither present nor absent there.

    Args:
        category_ids: of the categories in the vocabulary.
        shown: position -> ids of the categories that the image shows as instances, and as crowds.
        groups: category ids by name; each group is reported below its name as well.
        protocol: with the threshold of the presence.
    """

    def __init__(
        self,
        category_ids: Collection[int],
        shown: Callable[[int], tuple[Collection[int], Collection[int]]],
        groups: Mapping[str, Collection[int]],
        protocol: Protocol,
    ) -> None:
        self._shown, self._threshold = shown, protocol.presence_threshold
        ids = np.array(sorted(category_ids))
        self._column = {category_id: column for column, category_id in enumerate(ids.tolist())}
        self._members = {name: np.isin(ids, list(members)) for name, members in groups.items()}
        self._members[""] = np.ones(len(ids), dtype=bool)

    def start(self, position: int, encoded: Encoded) -> None:
        instances, crowds = self._shown(position)
        self._probability = np.zeros(len(self._column))
        self._truth = np.full(len(self._column), _ABSENT, dtype=np.uint8)
        for category_id, column in self._column.items():
            if category_id in instances:
                self._truth[column] = _PRESENT
            elif category_id in crowds:
                self._truth[column] = _UNKNOWN

    def add(self, prompt: Prompt, detections: PromptDetections) -> None:
        if prompt.category_id is not None:
            presence = detections.prediction.presence
            if not 0 <= presence <= 1:
                raise DataError(f"presence: the probability {presence} is not a number in [0, 1]")
            self._probability[self._column[prompt.category_id]] = presence

    def finish(self) -> dict[str, np.ndarray]:
        return {"probability": self._probability, "truth": self._truth}

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        """The keys of `presence_metrics`, and the same below each group's name."""
        metrics = {}
        for name, counts in self._counts(records).items():
            found = presence_metrics(counts.sum(axis=0))
            metrics |= {MetricKey(key, group=name): value for key, value in found.items()}
        return metrics

    def headline(self, records: Sequence[Record]) -> Headline:
        """`presence/IL_MCC`, `presence/accuracy_present` and `presence/accuracy_absent`, and the same below each
        group's name; NaN without such a pair."""
        counts = self._counts(records)
        keys = [f"presence/{name}" for name in ("IL_MCC", "accuracy_present", "accuracy_absent")]

        def accuracy(weights: np.ndarray) -> dict[str, float]:
            found = {}
            for name, of_images in counts.items():
                values = presence_metrics(np.tensordot(weights, of_images, axes=1))
                found |= {MetricKey(key, group=name): values.get(key, math.nan) for key in keys}
            return found

        return accuracy

    def _counts(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """(n, 2, 2) counts of each group and image, as for `presence_metrics`."""
        truth = np.stack([record["truth"] for record in records])
        predicted = np.stack([record["probability"] for record in records]) >= self._threshold
        actual = np.stack([truth == _ABSENT, truth == _PRESENT], axis=1)[:, :, None]
        pairs = actual & np.stack([~predicted, predicted], axis=1)[:, None]
        return {name: (pairs & members).sum(axis=-1) for name, members in self._members.items()}
