"""The detections of every image that a report may show, small enough to keep all: it chooses afterwards."""

import numpy as np

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Prompt, Record
from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage
from sam3_hyperet.masks import Rle


class ExampleEvaluator(Evaluator):
    """Records of the confident detections of categories, or the best one of a present category without any.

    There are no metrics.
    """

    def __init__(self, images: AnnotatedImages) -> None:
        self._images = images

    def start(self, position: int, encoded: EncodedImage) -> None:
        self._found: list[tuple[int, float, bytes]] = []
        self._present = {one.category_id for one in self._images.instances(position) if not one.crowd}

    def add(self, prompt: Prompt, detections: Detections) -> None:
        if prompt.category_id is not None:
            at_least = int(prompt.category_id in self._present and len(detections.scores) > 0)
            rles = detections.rles(max(detections.confident, at_least))
            scores = detections.scores[: len(rles)].tolist()
            runs = [rle["counts"].encode() for rle in rles]
            self._found += [(prompt.category_id, *pair) for pair in zip(scores, runs, strict=True)]

    def finish(self) -> dict[str, np.ndarray]:
        """Of n detections: `categories` and `scores` (n,), `runs`, the bytes of their masks' COCO run lengths one after
        the other, and `lengths` (n,) in bytes of each."""
        return {
            "categories": np.array([category for category, _, _ in self._found], dtype=np.int64),
            "scores": np.array([score for _, score, _ in self._found], dtype=np.float32),
            "runs": np.frombuffer(b"".join(runs for _, _, runs in self._found), dtype=np.uint8),
            "lengths": np.array([len(runs) for _, _, runs in self._found], dtype=np.int64),
        }

    def detections(self, position: int, category_id: int, record: Record) -> list[tuple[Rle, float]]:
        """Mask and score of those of a category, best first, from the record of the image at `position`."""
        runs, ends = record["runs"].tobytes(), np.cumsum(record["lengths"])
        image, found = self._images.image(position), []
        for n in np.flatnonzero(record["categories"] == category_id):
            counts = runs[ends[n] - record["lengths"][n] : ends[n]].decode("ascii")
            found.append(({"size": [image.height, image.width], "counts": counts}, float(record["scores"][n])))
        return found
