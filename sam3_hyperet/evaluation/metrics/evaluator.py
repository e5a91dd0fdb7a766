"""The interface of a metric: a few arrays for each image, and metrics from the arrays of all images.

The arrays of an image, its record, are written to disk as soon as the image is done. So an evaluation can be killed and
resumed, several processes can share one by its images, and a bootstrap draws images without running the model again.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage

Record = Mapping[str, np.ndarray]
Headline = Callable[[np.ndarray], dict[str, float]]


@dataclass(frozen=True)
class Prompt:
    """A text of the vocabulary, and what it stands for, as far as it does."""

    text: str
    category_id: int | None = None  # of the instances that it names
    class_index: int | None = None  # position among the classes of the label maps; several texts may name one class
    merged_index: int | None = None  # the same among the classes of the label maps of supercategories
    kept_id: int | None = None  # of the category of the base's answers that it names
    concept: bool = False  # whether the concept tree has a concept of this name


class Evaluator(ABC):
    """Metrics of one model on one split: `start`, `add` for each prompt, `finish`; then the next image.

    has_intervals: whether the headline's metrics themselves get intervals, and not only their differences.
    """

    has_intervals = False

    def start(self, position: int, encoded: EncodedImage) -> None:  # noqa: B027 (nothing, by default)
        """Begin the image at a position of the split, whose features the model has computed."""

    def add(self, prompt: Prompt, detections: Detections) -> None:  # noqa: B027
        """Add the prediction for one prompt; the prompts come in the order of the vocabulary, each once."""

    @abstractmethod
    def finish(self) -> dict[str, np.ndarray]:
        """The record of the image: arrays without objects, under names of the evaluator's own."""

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        """All metrics, from the records of the images in the order of the split; none by default."""
        return {}

    def headline(self, records: Sequence[Record]) -> Headline:
        """The few metrics with confidence intervals, as a function of how often each image counts, int (n,).

        For ones it gives what `evaluate` gives. A bootstrap calls it a thousand times: compute beforehand what can be.
        """
        return lambda weights: {}


def defined(headline: Headline, images: int, prefix: str) -> Headline:
    """The metrics of a headline that so many images, each once, define, below a prefix."""
    shown = [key for key, value in headline(np.ones(images, np.int64)).items() if np.isfinite(value)]

    def resampled(weights: np.ndarray) -> dict[str, float]:
        values = headline(weights)
        return {f"{prefix}/{key}": values[key] for key in shown}

    return resampled
