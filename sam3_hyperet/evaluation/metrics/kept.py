"""What a model keeps of its base's answers: what the base finds, recorded, and metrics with that as the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from sam3_hyperet.arrays.ragged import Ragged
from sam3_hyperet.choices import KEPT
from sam3_hyperet.data.answers import AnsweredImages, Answers
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Headline, Prompt, Record
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage


class KeptEvaluator(Evaluator):
    """Metrics of another evaluator, whose truth is the base's answers, below the group `kept`.

    They say how far two models agree, not which of them is right: the base itself has an AP of 1.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def start(self, position: int, encoded: EncodedImage) -> None:
        self._evaluator.start(position, encoded)

    def add(self, prompt: Prompt, detections: Detections) -> None:
        if prompt.kept_id is not None:
            self._evaluator.add(replace(prompt, category_id=prompt.kept_id), detections)

    def finish(self) -> dict[str, np.ndarray]:
        return self._evaluator.finish()

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        return _kept(self._evaluator.evaluate(records))

    def headline(self, records: Sequence[Record]) -> Headline:
        figures = self._evaluator.headline(records)
        return lambda weights: _kept(figures(weights))


class AnswerEvaluator(Evaluator):
    """What a model finds, as the annotations of `images`: no metric, but records from which `answers` are made."""

    def __init__(self, images: AnsweredImages) -> None:
        self._images = images

    def start(self, position: int, encoded: EncodedImage) -> None:
        self._labels: list[tuple[int, str, float]] = []  # category id, counts of the mask, score
        self._unclear: set[int] = set()

    def add(self, prompt: Prompt, detections: Detections) -> None:
        assert prompt.category_id is not None
        options, scores = self._images.options, detections.scores
        count = int((scores >= options.score_threshold).sum())  # best first
        if (scores >= options.unclear_threshold).sum() > count:
            self._unclear.add(prompt.category_id)
        for rle, score in zip(detections.rles(count), scores[:count].tolist(), strict=True):
            self._labels.append((prompt.category_id, rle["counts"], score))

    def finish(self) -> dict[str, np.ndarray]:
        """Of n masks `category` (n,), `score` (n,), and `counts` with `starts` as `Ragged` has them; `unclear` ids."""
        counts = Ragged.of_bytes([counts.encode("ascii") for _, counts, _ in self._labels])
        return {
            "category": np.array([category for category, _, _ in self._labels], np.int64),
            "score": np.array([score for _, _, score in self._labels], np.float64),
            "counts": counts.values,
            "starts": counts.starts,
            "unclear": np.array(sorted(self._unclear), np.int64),
        }

    def answers(self, positions: Sequence[int], records: Sequence[Record]) -> Mapping[int, Answers]:
        """The answers on the images at these positions."""
        return {i: self._answers(i, record) for i, record in zip(positions, records, strict=True)}

    def _answers(self, position: int, record: Record) -> Answers:
        image, counts = self._images.image(position), Ragged(record["counts"], record["starts"])
        rles = [{"size": [image.height, image.width], "counts": bytes(one).decode("ascii")} for one in counts]
        labels = list(zip(record["category"].tolist(), rles, record["score"].tolist(), strict=True))
        return Answers.of(labels, record["unclear"].tolist())


def _kept(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics below the group; not those of boxes, for the truth is masks, and SAM 3's boxes are not theirs."""
    found = {key if isinstance(key, MetricKey) else MetricKey(key): value for key, value in metrics.items()}
    of_group = {MetricKey(key.metric, group=KEPT, category=key.category): value for key, value in found.items()}
    return {key: value for key, value in of_group.items() if not key.metric.startswith("bbox")}
