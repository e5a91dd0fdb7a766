"""mIoU of label maps, fused in three ways from the predictions for every class.

A class has a presence p, instances of score s_i and mask probability m_i, and a semantic probability g. Its
value at a pixel is

- `instance`: p · max_i s_i m_i (as in SAM 3's paper, whose thresholds are not published)
- `semantic`: p · g
- `fused`:    p · max(max_i s_i m_i, g)

A class competes for a pixel where m_i ≥ the mask threshold for one of its instances (`instance`, `fused`) or
g ≥ that threshold (`semantic`, `fused`). The pixel goes to the competing class with the largest value, the
first of equals; a pixel without one is `UNASSIGNED`. Classes come one by one: memory is a few maps.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.parts import SEEN, UNSEEN
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Headline, Prompt, Record
from sam3_hyperet.evaluation.metrics.key import MetricKey
from sam3_hyperet.evaluation.metrics.semantic.semantic_miou import UNASSIGNED, SemanticMIoU, iou_metrics
from sam3_hyperet.evaluation.protocol import FUSIONS, Protocol
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage

SHOWN = "fused"  # the fusion whose label maps are kept for the report


class FusedLabels:
    """A label map to which classes are added one by one: `labels`, (H, W) int64 on the values' device."""

    def __init__(self, size: Sequence[int], nothing: int = UNASSIGNED) -> None:
        """nothing: the label of pixels that no class takes."""
        self.labels, self._best = torch.full(tuple(size), nothing), torch.full(tuple(size), -torch.inf)

    def add(self, label: int, value: Tensor) -> None:
        """Add a class by its value at each pixel, one of `class_values`."""
        best = self._best.to(value.device)
        self.labels = torch.where(value > best, label, self.labels.to(value.device))
        self._best = torch.maximum(value, best)


def class_values(
    presence: float, scores: Tensor, masks: Iterable[Tensor], semantic: Tensor, mask_threshold: float
) -> dict[str, Tensor]:
    """A class's value at each pixel by fusion, (H, W) float32; -inf where it does not compete for the pixel.

    `scores` are (n,) P(instance | the class is there); `masks` n times (H, W) and `semantic` (H, W) probabilities.
    """
    nothing = torch.full_like(semantic, -torch.inf, dtype=torch.float32)
    of_semantic = torch.where(semantic >= mask_threshold, semantic.float() * presence, nothing)
    of_instances = nothing
    for score, mask in zip(scores, masks, strict=True):
        weighted = mask.float() * (score.float() * presence)
        of_instances = torch.maximum(of_instances, weighted.masked_fill_(mask < mask_threshold, -torch.inf))
    return {"instance": of_instances, "semantic": of_semantic, "fused": torch.maximum(of_instances, of_semantic)}


def vocabulary_labels(images: AnnotatedImages, i: int) -> np.ndarray:
    """(H, W) position of each pixel's class among the categories, -1 where it has none."""
    labels = images.label_map(i)
    if labels is None:
        raise ConfigError(f"image {images.image(i).image_id} has no label map")
    ids = [category.id for category in images.categories]
    table = np.full(max(ids) + 2, -1)
    table[ids] = np.arange(len(ids))
    return np.asarray(table[labels])


class LabelMapEvaluator(Evaluator):
    """mIoU of the classes' predictions, fused to label maps at the labels' own size.

    images: with the C classes as categories and the label maps; of several prompts for a class the best counts. Where
        one of them is the background, it gets the pixels that no other class takes.
    shown: positions whose label map is kept, as `shown`: (H, W) classes, -1 where a pixel has none.
    groups: class names by name; of those that are all classes here, the mean IoU is reported below the name as well;
        of `seen` and `unseen` their harmonic mean, too, as `harmonic`.
    level: what the names of all other metrics begin with. class_index: the class that a prompt names, if it does.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        protocol: Protocol,
        shown: Collection[int],
        groups: Mapping[str, Collection[str]],
        *,
        level: str = "",
        class_index: Callable[[Prompt], int | None] = attrgetter("class_index"),
    ) -> None:
        self.names = tuple(category.name for category in images.categories)
        self._groups = {
            name: np.isin(self.names, list(members)) for name, members in groups.items() if {*members} <= {*self.names}
        }
        self._level, self._class_index = level, class_index
        ids = [category.id for category in images.categories]
        self._nothing = UNASSIGNED if images.background is None else ids.index(images.background)
        self._images, self._protocol, self._shown = images, protocol, shown

    def start(self, position: int, encoded: EncodedImage) -> None:
        self._position, self._labels = position, vocabulary_labels(self._images, position)
        self._maps = {name: FusedLabels(self._labels.shape, self._nothing) for name in FUSIONS}

    def add(self, prompt: Prompt, detections: Detections) -> None:
        prediction, protocol = detections.prediction, self._protocol
        index = self._class_index(prompt)
        if index is None or prediction.presence < protocol.presence_threshold:
            return
        for name, value in prediction.stitched(self._values, *self._labels.shape).items():
            self._maps[name].add(index, value)

    def _values(self, prediction: PromptPrediction, height: int, width: int) -> dict[str, Tensor]:
        """Those of a class on an image, or on a tile of it: a tile that does not show the class says nothing."""
        protocol = self._protocol
        if prediction.presence < protocol.presence_threshold:
            return {}
        kept = prediction.above(protocol.score_threshold)
        masks, semantic = kept.each_mask_probabilities(height, width), kept.semantic_probabilities(height, width)
        return class_values(kept.presence, kept.query_scores, masks, semantic, protocol.mask_threshold)

    def finish(self) -> dict[str, np.ndarray]:
        record: dict[str, np.ndarray] = {}
        for name, fused in self._maps.items():
            counter = SemanticMIoU(self.names, ignore=-1)
            counter.process(self._labels, fused.labels, source=f"image {self._position}")
            confusion = counter.confusion.ravel()
            pairs = np.flatnonzero(confusion)
            record |= {f"{name}/pairs": pairs.astype(np.int32), f"{name}/pixels": confusion[pairs]}
        if self._position in self._shown:
            record["shown"] = self._maps[SHOWN].labels.cpu().numpy().astype(np.int32)
        return record

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        """`<fusion>/mIoU`, `<fusion>/unassigned` and so on: the keys of `SemanticMIoU` for each fusion."""
        metrics: dict[str, float] = {}
        for name in FUSIONS:
            confusion = np.zeros((len(self.names) + 1, len(self.names)), dtype=np.int64)
            for record in records:
                confusion.ravel()[record[f"{name}/pairs"]] += record[f"{name}/pixels"]
            for key, value in iou_metrics(confusion, self.names, len(records)).items():
                category = key.category if isinstance(key, MetricKey) else ""
                group = f"{self._level}/{name}".lstrip("/")
                metrics[MetricKey("IoU" if category else key, group=group, category=category)] = value
        once = np.ones(len(records), dtype=np.int64)
        of_groups = {key: value for key, value in self.headline(records)(once).items() if np.isfinite(value)}
        return of_groups | metrics

    def headline(self, records: Sequence[Record]) -> Headline:
        """`<fusion>/mIoU` of each fusion, and below each group's name; NaN for a draw without a pixel of the classes.

        Of the protocol's fusion, if it has one, `mIoU` as well.
        """
        counts = {name: np.stack([self._class_counts(record, name) for record in records]) for name in FUSIONS}
        sets = {self._level: np.ones(len(self.names), dtype=bool), **self._groups}
        chosen = self._protocol.fusion

        def mean_iou(weights: np.ndarray) -> dict[str, float]:
            values: dict[str, float] = {}
            for name, of_images in counts.items():
                hit, union = np.tensordot(weights, of_images, axes=1)
                for group, members in sets.items():
                    seen = members & (union > 0)
                    value = float((hit[seen] / union[seen]).mean()) if seen.any() else np.nan
                    values[MetricKey("mIoU", group=f"{group}/{name}".lstrip("/"))] = value
                    values |= {MetricKey("mIoU", group=group): value} if name == chosen else {}
            return values | self._harmonic_means(values)

        return mean_iou

    def _harmonic_means(self, values: Mapping[str, float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for group in self._groups:
            prefix, _, name = group.rpartition("/")
            other = f"{prefix}/{UNSEEN}".lstrip("/")
            if name == SEEN and other in self._groups:
                for end in ("", *(f"/{fusion}" for fusion in FUSIONS)):
                    if (key := f"{group}{end}/mIoU") in values:
                        seen, unseen = values[key], values[f"{other}{end}/mIoU"]
                        mean = 2 * seen * unseen / (seen + unseen) if seen + unseen != 0 else 0.0
                        found[MetricKey("mIoU", group=f"{prefix}/harmonic{end}".lstrip("/"))] = mean
        return found

    def _class_counts(self, record: Record, fusion: str) -> np.ndarray:
        """(2, C): pixels of each class that are hit, and of its union of prediction and label."""
        classes = len(self.names)
        pixels = record[f"{fusion}/pixels"]
        prediction, label = np.divmod(record[f"{fusion}/pairs"], classes)
        hit = np.bincount(label, pixels * (prediction == label), classes)
        predicted = np.bincount(prediction, pixels, classes + 1)[:-1]
        return np.stack([hit, np.bincount(label, pixels, classes) + predicted - hit])
