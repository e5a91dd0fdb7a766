"""Radius as uncertainty: does the radius of the features inside a detection's mask predict the mask's error? [4]

Confident detections count. The radius of one is the mean normalised radius, tanh(√c‖v‖), of the feature vectors v
inside its mask, on one level of the feature pyramid; its error is 1 − IoU with the best annotated instance of its
category, so 1 where there is none. A detection that lies in a crowd and on no instance is left out, as in COCO, and so
is one on no instance where the annotations of its category are not exhaustive. The usual uncertainty, 1 − score, is
measured beside it.

For both: `spearman`, ρ of uncertainty and error; `auroc` of "more uncertain" for "wrong" (IoU < 1/2); `aurc`, the area
under the risk–coverage curve of the error. A larger radius may mean a larger or a smaller error: ρ is reported with its
sign, and an AUROC below 1/2 says that the smaller radius means the error. `aurc/random` is that of a random order, the
mean error, and `aurc/oracle` that of the error's own.

`both` is a sum of the two, weighted by logistic regression of "wrong" on the detections of other images; its `auroc`
and `aurc` less those of 1 − score are `beyond_score/auroc` and `beyond_score/aurc`: what the radius adds to the score.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Headline, Prompt, Record, defined
from sam3_hyperet.evaluation.metrics.ranking import Ranking, aurc, auroc, cross_fitted, risk_coverage, spearman
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.hyperbolic.radius import normalized_radius
from sam3_hyperet.inference.prediction import Encoded, PromptDetections
from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage, EncodedTiles
from sam3_hyperet.masks import Rle
from sam3_hyperet.modeling.parameters import changes_features

CORRECT_IOU = 0.5
BASE_CURVATURE = 0.01  # the paper's [1], where no adjustment has another


def pyramid_radii(model: nn.Module, encoded: Encoded) -> Tensor:
    """(h, w) normalised radii of a pyramid level's features, behind the adjustment there.

    The level is the first that the adapters adjust or, where they adjust none, that of the highest resolution; the
    curvature is that of its adjustment or, of a base, .01.
    """
    adjustment: Any = getattr(model.backbone, "fpn_adjustment", None)
    level, curvature = 0 if adjustment is None else adjustment.indices[0], BASE_CURVATURE
    if adjustment is not None and changes_features(adjustment):
        curvature = adjustment.level(level).curvature().detach()
    return normalized_radius(encoded["backbone_fpn"][level][0].detach().float(), curvature, 0)


class UncertaintyEvaluator(Evaluator):
    """Radius and score as uncertainties of a model's detections on images with annotated instances."""

    has_intervals = True

    def __init__(self, model: nn.Module, images: AnnotatedImages, protocol: Protocol) -> None:
        self._model, self._images, self._mask_threshold = model, images, protocol.mask_threshold

    def start(self, position: int, encoded: EncodedImage) -> None:
        assert not isinstance(encoded, EncodedTiles)  # the task has no such evaluator with tiles
        self._annotated: dict[int, list[tuple[Rle, bool]]] = defaultdict(list)
        for region in self._images.instances(position):
            self._annotated[region.category_id].append((region.rle, region.crowd))
        self._partly = self._images.not_exhaustive(position) | self._images.unlabelled(position)
        self._found: list[np.ndarray] = []
        self._radii = pyramid_radii(self._model, encoded)

    def add(self, prompt: Prompt, detections: Detections) -> None:
        assert isinstance(detections, PromptDetections)
        count = detections.confident
        if prompt.category_id is None or not count:
            return
        annotated = self._annotated.get(prompt.category_id, ())
        overlap = masks.iou(detections.rles(count), [rle for rle, _ in annotated], [crowd for _, crowd in annotated])
        crowd = np.array([crowd for _, crowd in annotated], bool)
        iou = overlap[:, ~crowd].max(axis=1, initial=0)
        elsewhere = overlap[:, crowd].max(axis=1, initial=0) < CORRECT_IOU
        counted = (iou >= CORRECT_IOU) | (elsewhere & (prompt.category_id not in self._partly))
        table = np.stack([self._mean_radii(detections), detections.scores[:count], iou])
        self._found.append(table[:, counted])

    def finish(self) -> dict[str, np.ndarray]:
        """`detections` (3, n): mean normalised radius, score, and IoU with the best instance."""
        return {"detections": np.concatenate([np.zeros((3, 0)), *self._found], axis=1)}

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        detections = PooledDetections(records)
        every = np.ones(len(detections.error))
        metrics = {"detections": float(len(every)), "wrong": float(detections.wrong.sum())} | detections.metrics(every)
        metrics["aurc/random"] = float(detections.error.mean()) if len(every) else float("nan")
        metrics["aurc/oracle"] = aurc(detections.errors, detections.error, every)
        return {f"uncertainty/{key}": value for key, value in metrics.items() if np.isfinite(value)}

    def headline(self, records: Sequence[Record]) -> Headline:
        """Spearman's ρ, AUROC and AURC, as far as they are defined; the weights of `both` are those of all images."""
        detections = PooledDetections(records)
        return defined(lambda weights: detections.metrics(weights[detections.image]), len(records), "uncertainty")

    def _mean_radii(self, detections: PromptDetections) -> np.ndarray:
        """(n,) means over the positions inside each mask; of a mask without any, over its most probable ones."""
        probabilities = detections.mask_probabilities(detections.confident, *self._radii.shape).flatten(1)
        inside = probabilities >= probabilities.amax(dim=1, keepdim=True).clamp(max=self._mask_threshold)
        # sums and no product of matrices, which TF32 would round
        means: np.ndarray = ((inside * self._radii.flatten()).sum(dim=1) / inside.sum(dim=1)).cpu().double().numpy()
        return means


class PooledDetections:
    """The detections of all images, sorted once by each uncertainty.

    error: (n,) 1 − IoU, and `errors`, its ranking. wrong: (n,) IoU < 1/2. image: (n,) its place in the records.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        tables = [record["detections"] for record in records]
        radius, score, iou = np.concatenate(tables, axis=1)
        self.image = np.repeat(np.arange(len(tables)), [table.shape[1] for table in tables])
        self.error, self.wrong = 1 - iou, iou < CORRECT_IOU
        self._uncertainty = {"radius": Ranking(radius), "score": Ranking(1 - score)}
        self.errors = Ranking(self.error)
        both = cross_fitted(np.stack([1 - score, radius], axis=1), self.wrong, self.image)
        if both is not None:
            self._uncertainty["both"] = Ranking(both)

    def metrics(self, weights: np.ndarray) -> dict[str, float]:
        """`<kind>/spearman`, `<kind>/auroc` and `<kind>/aurc`, NaN where undefined; (n,) weights are whole numbers.

        `both/…` and `beyond_score/…` where there are wrong and right ones to fit to.
        """
        found = {}
        for kind, ranking in self._uncertainty.items():
            found[f"{kind}/spearman"] = spearman(ranking, self.errors, weights)
            found[f"{kind}/auroc"] = auroc(ranking, self.wrong, weights)
            found[f"{kind}/aurc"] = aurc(ranking, self.error, weights)
        if "both" in self._uncertainty:
            for measure in ("auroc", "aurc"):
                found[f"beyond_score/{measure}"] = found[f"both/{measure}"] - found[f"score/{measure}"]
        return found

    def curve(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Coverage and risk (mean error) of the risk–coverage curve of "radius" or "score"."""
        return risk_coverage(self._uncertainty[kind], self.error, np.ones(len(self.error)))
