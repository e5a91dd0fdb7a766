"""What a metric is made of: a few arrays of each picture, and figures of the arrays of all pictures.

The arrays of a picture, its record, are written to disk as soon as it is done. So an evaluation can be killed and go
on, several processes share one by its pictures, and a bootstrap draws pictures without asking the model again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from sam3_hyperet.inference.predictor import PromptPrediction

Record = Mapping[str, np.ndarray]
Headline = Callable[[np.ndarray], dict[str, float]]


class Evaluator(Protocol):
    """Metrics of one model on one split: start, add for each prompt, finish; then the next picture."""

    def start(self, i: int) -> None:
        """Picture i of the split begins."""

    def add(self, k: int, answer: PromptPrediction) -> None:
        """What the model answers on it to prompt k of the vocabulary; the prompts come in order, each once."""

    def finish(self) -> dict[str, np.ndarray]:
        """The record of the picture; its arrays are no objects and their names are the evaluator's own."""

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        """All metrics, from the records of the pictures in the order of the split."""

    def headline(self, records: Sequence[Record]) -> Headline:
        """The few metrics that get confidence intervals, as a function of how often each picture counts, int (n,).

        With ones it gives what `evaluate` gives. It is called a thousand times: what can be computed before, is.
        """
