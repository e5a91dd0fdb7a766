"""mIoU of label maps by the three fusions, from each picture's counts of (prediction, label) pairs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from sam3_hyperet.evaluation.metrics.evaluator import Headline, Record
from sam3_hyperet.evaluation.metrics.semantic.fusion import ClassEvidence, Fusion, class_values
from sam3_hyperet.evaluation.metrics.semantic.semantic_miou import SemanticMIoU, iou_metrics
from sam3_hyperet.evaluation.protocol import FUSIONS, FusionThresholds
from sam3_hyperet.inference.predictor import PromptPrediction

SHOWN = "fused"  # the fusion whose label maps are kept for the report


class LabelMapEvaluator:
    """Fuses the answers to the classes' names to label maps at the labels' own size, and counts their pixels.

    Args:
        names: of the C classes, class c being the value c of a map.
        class_of: the class of each prompt that names one; a class may have several, and the best of them counts.
        truth: position -> (H, W) integers, -1 where a pixel is not to be counted.
        thresholds: of the fusions.
        fusion: whose mIoU is also called `mIoU`; None for none.
        shown: positions whose label map is kept, as `shown`: (H, W) classes, -1 where a pixel has none.
    """

    def __init__(
        self,
        names: Sequence[str],
        class_of: Mapping[int, int],
        truth: Callable[[int], np.ndarray],
        thresholds: FusionThresholds | None = None,
        fusion: str | None = None,
        shown: Collection[int] = (),
    ) -> None:
        self.names = tuple(names)
        self.class_of = dict(class_of)
        self.truth = truth
        self.thresholds = thresholds or FusionThresholds()
        self.fusion = fusion
        self.shown = frozenset(shown)

    def start(self, i: int) -> None:
        self._position, self._labels = i, self.truth(i)
        self._fusions = {name: Fusion(name, self._labels.shape) for name in FUSIONS}

    def add(self, k: int, answer: PromptPrediction) -> None:
        if k not in self.class_of or answer.presence < self.thresholds.presence:
            return
        kept = answer.above(self.thresholds.score)
        evidence = ClassEvidence(
            label=self.class_of[k],
            presence=answer.presence,
            scores=kept.query_scores,
            masks=kept.mask_probabilities(*self._labels.shape),
            semantic=kept.semantic_probabilities(*self._labels.shape),
        )
        for name, value in class_values(evidence, self.thresholds).items():
            self._fusions[name].add_value(evidence.label, value)

    def finish(self) -> dict[str, np.ndarray]:
        record = {}
        for name, fusion in self._fusions.items():
            counter = SemanticMIoU(self.names, ignore=-1)
            counter.process(self._labels, fusion.labels, source=f"picture {self._position}")
            confusion = counter.confusion.ravel()
            pairs = np.flatnonzero(confusion)
            record |= {f"{name}/pairs": pairs.astype(np.int32), f"{name}/pixels": confusion[pairs]}
        if self._position in self.shown:
            record["shown"] = self._fusions[SHOWN].labels.cpu().numpy().astype(np.int32)
        return record

    def confusion(self, records: Sequence[Record], fusion: str) -> np.ndarray:
        """(C + 1, C) int64 pixels over all pictures, prediction x label, the last row the unassigned."""
        classes = len(self.names)
        total = np.zeros((classes + 1) * classes, dtype=np.int64)
        for record in records:
            total[record[f"{fusion}/pairs"]] += record[f"{fusion}/pixels"]
        return total.reshape(classes + 1, classes)

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        """`<fusion>/mIoU`, `<fusion>/unassigned` and so on: the keys of `SemanticMIoU` for each fusion."""
        metrics: dict[str, float] = {}
        for name in FUSIONS:
            figures = iou_metrics(self.confusion(records, name), self.names, len(records))
            metrics |= {f"{name}/{key}": value for key, value in figures.items()}
        return metrics | ({"mIoU": metrics[f"{self.fusion}/mIoU"]} if self.fusion else {})

    def headline(self, records: Sequence[Record]) -> Headline:
        """`<fusion>/mIoU` of each fusion; NaN for a draw without a labelled pixel."""
        counts = {name: np.stack([self._class_counts(record, name) for record in records]) for name in FUSIONS}

        def mean_iou(weights: np.ndarray) -> dict[str, float]:
            figures = {}
            for name, of_pictures in counts.items():
                hit, union = np.tensordot(weights, of_pictures, axes=1)
                figures[f"{name}/mIoU"] = float((hit[union > 0] / union[union > 0]).mean()) if union.any() else np.nan
            return figures

        return mean_iou

    def _class_counts(self, record: Record, fusion: str) -> np.ndarray:
        """(2, C): pixels of each class that are hit, and of its union of prediction and label."""
        classes = len(self.names)
        pixels = record[f"{fusion}/pixels"]
        prediction, label = np.divmod(record[f"{fusion}/pairs"], classes)
        is_hit = prediction == label
        hit = np.bincount(label[is_hit], pixels[is_hit], classes)
        predicted = np.bincount(prediction, pixels, classes + 1)[:-1]
        return np.stack([hit, np.bincount(label, pixels, classes) + predicted - hit])
