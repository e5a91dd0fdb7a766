"""Presence as an image-level classification of (image, prompt) pairs: are absent concepts recognised as absent?"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Headline, Prompt, Record
from sam3_hyperet.evaluation.metrics.key import MetricKey, of_present
from sam3_hyperet.evaluation.metrics.matthews import is_measured, matthews
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage

_Shown = Callable[[int], tuple[Collection[int], Collection[int]]]
"""From a position to the ids of the categories that the image shows as instances, and as crowds."""
_ABSENT, _PRESENT, _UNKNOWN = 0, 1, 2
_MAIN = ("presence/IL_MCC", "presence/accuracy_present", "presence/accuracy_absent")


def presence_metrics(counts: np.ndarray) -> dict[str, float]:
    """Metrics of counts, int (2, 2), of pairs: present or absent in rows, predicted to be in columns.

    These are `presence/accuracy_present` and `presence/accuracy_absent`, each only where there are such pairs;
    `presence/IL_MCC`, the correlation of `matthews`, only where there are both; and the counts
    `presence/true_positives`, `presence/false_negatives` and so on.
    """
    (tn, fp), (fn, tp) = counts.tolist()
    positives, negatives = tp + fn, tn + fp
    pairs = (tp, fp, fn, tn)
    metrics: dict[str, float] = {"IL_MCC": matthews(*pairs)} if is_measured(*pairs) else {}
    metrics |= {"true_positives": tp, "false_negatives": fn, "true_negatives": tn, "false_positives": fp}
    metrics |= {"accuracy_present": tp / positives} if positives else {}
    metrics |= {"accuracy_absent": tn / negatives} if negatives else {}
    return {f"presence/{name}": value for name, value in metrics.items()}


class PresenceEvaluator(Evaluator):
    """Presence of each category of the vocabulary on each image, absent ones included.

    A category that an image shows as a crowd alone is neither present nor absent there.
    Each group, category ids by name, is reported below its name as well.
    """

    def __init__(
        self, category_ids: Collection[int], shown: _Shown, groups: Mapping[str, Collection[int]], protocol: Protocol
    ) -> None:
        self._shown, self._threshold = shown, protocol.presence_threshold
        self._asks_present = protocol.asks_present
        ids = np.array(sorted(category_ids))
        self._column = {category_id: column for column, category_id in enumerate(ids.tolist())}
        self._members = {name: np.isin(ids, list(members)) for name, members in groups.items()}
        self._members[""] = np.ones(len(ids), dtype=bool)

    def start(self, position: int, encoded: EncodedImage) -> None:
        instances, crowds = self._shown(position)
        self._probability = np.zeros(len(self._column))
        truth = [_PRESENT if c in instances else _UNKNOWN if c in crowds else _ABSENT for c in self._column]
        self._truth = np.array(truth, dtype=np.uint8)

    def add(self, prompt: Prompt, detections: Detections) -> None:
        if prompt.category_id is not None:
            presence = detections.prediction.presence
            if not 0 <= presence <= 1:
                raise DataError(f"presence: the probability {presence} is not a number in [0, 1]")
            self._probability[self._column[prompt.category_id]] = presence

    def finish(self) -> dict[str, np.ndarray]:
        return {"probability": self._probability, "truth": self._truth}

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        """The keys of `presence_metrics`, and the same below each group's name."""
        found = {name: presence_metrics(counts.sum(axis=0)) for name, counts in self._counts(records).items()}
        metrics: dict[str, float] = {}
        for name, one in found.items():
            metrics |= {MetricKey(key, group=name): value for key, value in one.items()}
        return of_present(metrics) if self._asks_present else metrics

    def headline(self, records: Sequence[Record]) -> Headline:
        """`presence/IL_MCC` and the two accuracies, and the same below each group's name; NaN without such a pair."""
        counts = self._counts(records)

        def accuracy(weights: np.ndarray) -> dict[str, float]:
            found = {name: presence_metrics(np.tensordot(weights, images, axes=1)) for name, images in counts.items()}
            metrics: dict[str, float] = {}
            for name, one in found.items():
                metrics |= {MetricKey(key, group=name): one.get(key, math.nan) for key in _MAIN}
            return of_present(metrics) if self._asks_present else metrics

        return accuracy

    def _counts(self, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """(n, 2, 2) counts of each group and image, as for `presence_metrics`."""
        truth = np.stack([record["truth"] for record in records])
        predicted = np.stack([record["probability"] for record in records]) >= self._threshold
        actual = np.stack([truth == _ABSENT, truth == _PRESENT], axis=1)[:, :, None]
        pairs = actual & np.stack([~predicted, predicted], axis=1)[:, None]
        return {name: (pairs & members).sum(axis=-1) for name, members in self._members.items()}
