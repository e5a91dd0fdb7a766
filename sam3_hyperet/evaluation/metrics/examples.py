"""The confident detections of every picture, small enough to keep all: a report chooses afterwards what it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sam3_hyperet.evaluation.metrics.evaluator import Headline, Record
from sam3_hyperet.evaluation.metrics.regions import confident
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.masks import Rle, encode_masks


class ExampleEvaluator:
    """Keeps the detections of a score, presence included, of at least `score`; it measures nothing.

    Args:
        category_of: the category id of each prompt that names one.
        size: position -> (height, width) of the picture, in pixels.
        mask_threshold: probability from which a pixel belongs to a mask.
    """

    def __init__(
        self,
        category_of: Mapping[int, int],
        size: Callable[[int], tuple[int, int]],
        mask_threshold: float = 0.5,
        score: float = 0.5,
    ) -> None:
        self.category_of = dict(category_of)
        self.size = size
        self.mask_threshold = mask_threshold
        self.score = score

    def start(self, i: int) -> None:
        self._position = i
        self._categories: list[int] = []
        self._scores: list[float] = []
        self._runs: list[bytes] = []

    def add(self, k: int, answer: PromptPrediction) -> None:
        if k not in self.category_of:
            return
        kept = confident(answer, self.score)
        kept = kept.top(len(kept.boxes))
        masks = kept.masks(*self.size(self._position), self.mask_threshold)
        self._categories += [self.category_of[k]] * len(masks)
        self._scores += kept.scores.tolist()
        self._runs += [rle["counts"].encode() for rle in encode_masks(masks)]

    def finish(self) -> dict[str, np.ndarray]:
        """Of n detections: `categories` and `scores` (n,), `runs`, the bytes of their masks' COCO run lengths one after
        the other, and `lengths` (n,) in bytes of each."""
        return {
            "categories": np.array(self._categories, dtype=np.int64),
            "scores": np.array(self._scores, dtype=np.float32),
            "runs": np.frombuffer(b"".join(self._runs), dtype=np.uint8),
            "lengths": np.array([len(one) for one in self._runs], dtype=np.int64),
        }

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        return {}

    def headline(self, records: Sequence[Record]) -> Headline:
        return lambda weights: {}

    def detections(self, position: int, category_id: int, record: Record) -> list[tuple[Rle, float]]:
        """Mask and score of those of a category, best first, from the record of the picture at `position`."""
        runs, ends = record["runs"].tobytes(), np.cumsum(record["lengths"])
        size = list(self.size(position))
        return [
            (
                {"size": size, "counts": runs[ends[n] - record["lengths"][n] : ends[n]].decode("ascii")},
                float(record["scores"][n]),
            )
            for n in np.flatnonzero(record["categories"] == category_id)
        ]
