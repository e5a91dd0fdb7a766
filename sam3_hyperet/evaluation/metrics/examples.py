"""The confident detections of every image, small enough to keep all: a report chooses afterwards what it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.evaluation.metrics.evaluator import Headline, Prompt, Record
from sam3_hyperet.inference.prediction import PromptDetections
from sam3_hyperet.inference.predictor import Encoded
from sam3_hyperet.masks import Rle


class ExampleEvaluator:
    """Records of the confident detections of categories; there are no metrics."""

    def __init__(self, images: AnnotatedImages) -> None:
        self._images = images

    def start(self, position: int, encoded: Encoded) -> None:
        self._categories: list[int] = []
        self._scores: list[float] = []
        self._runs: list[bytes] = []

    def add(self, prompt: Prompt, detections: PromptDetections) -> None:
        if prompt.category_id is None:
            return
        count = detections.confident
        self._categories += [prompt.category_id] * count
        self._scores += detections.scores[:count].tolist()
        self._runs += [rle["counts"].encode() for rle in detections.rles(count)]

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
        """Mask and score of those of a category, best first, from the record of the image at `position`."""
        runs, ends = record["runs"].tobytes(), np.cumsum(record["lengths"])
        image, found = self._images.image(position), []
        for n in np.flatnonzero(record["categories"] == category_id):
            counts = runs[ends[n] - record["lengths"][n] : ends[n]].decode("ascii")
            found.append(({"size": [image.height, image.width], "counts": counts}, float(record["scores"][n])))
        return found
