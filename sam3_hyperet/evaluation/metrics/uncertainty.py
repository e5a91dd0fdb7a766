"""Radius as uncertainty: does the radius of the features inside a detection's mask tell how wrong the mask is? [4]

A detection is any whose score, presence included, reaches a threshold. Its radius is the mean normalised radius,
tanh(√c‖v‖), of the feature vectors v inside its mask, on one level of the feature pyramid; its error is 1 − IoU with
the best annotated instance of its category, so 1 where there is none. A detection that lies in a crowd and on no
instance is left out, as in COCO. The usual uncertainty, 1 − score, is measured beside it.

For both: `spearman`, ρ of uncertainty and error; `auroc` of "more uncertain" for "wrong" (IoU < 1/2); `aurc`, the area
under the risk–coverage curve of the error. A larger radius may mean a larger or a smaller error: ρ is reported with its
sign, and an AUROC below 1/2 says that the smaller radius means the error. `aurc/random` is what no knowledge gives, the
mean error, and `aurc/oracle` what the error itself gives.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from torch import Tensor, nn

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.evaluation.metrics import regions
from sam3_hyperet.evaluation.metrics.evaluator import Headline, Record
from sam3_hyperet.evaluation.metrics.ranking import Ranking, aurc, auroc, risk_coverage, spearman
from sam3_hyperet.hyperbolic.radius import normalized_radius
from sam3_hyperet.inference.prediction import PromptPrediction

CORRECT_IOU = 0.5
BASE_CURVATURE = 0.01  # the paper's [1], where no adjustment says another


class PyramidRadii:
    """The normalised radius of a pyramid level's features, behind the adjustment there, of the picture encoded last.

    It watches from `open` to `close`. The level is the first that the adapters adjust or, where they adjust none, the
    first, of the highest resolution; the curvature is that of its adjustment or, of a base, .01.
    """

    def __init__(self, model: nn.Module) -> None:
        self._backbone: Any = model.backbone
        self._adjustment: Any = getattr(self._backbone, "fpn_adjustment", None)
        self.level = 0 if self._adjustment is None else self._adjustment.indices[0]
        self._hooks = ExitStack()

    def open(self) -> None:
        """Forget the last picture and watch for the next one."""
        self.close()
        self._map: Tensor | None = None
        convolution = self._backbone.vision_backbone.convs[self.level]
        watched = convolution if self._adjustment is None else self._adjustment
        self._hooks.callback(watched.register_forward_hook(self._see).remove)

    def close(self) -> None:
        self._hooks.close()

    @property
    def map(self) -> Tensor:
        """(h, w). Raises RuntimeError where no picture was encoded since `open`."""
        if self._map is None:
            raise RuntimeError("no feature pyramid was computed for this picture; expected the model to encode it")
        return self._map

    def _see(self, module: nn.Module, inputs: object, output: Tensor | Sequence[Tensor]) -> None:
        features = output if isinstance(output, Tensor) else output[self.level]
        self._map = normalized_radius(features[0].detach().float(), self._curvature(), 0).double()

    def _curvature(self) -> Tensor | float:
        if self._adjustment is None or not self._adjustment.enabled:
            return BASE_CURVATURE
        curvature: Tensor = self._adjustment.level(self.level).curvature().detach()
        return curvature


class UncertaintyEvaluator:
    """Radius and score as uncertainties of the detections on pictures with annotated instances.

    Args:
        model: it is watched from `start` to `finish`, so the picture must be encoded in between.
        pictures: where the instances are.
        category_of: prompt -> category id; other prompts are not looked at.
        score: from which a detection counts, presence included.
        mask: probability from which a pixel belongs to a mask.
    """

    def __init__(
        self,
        model: nn.Module,
        pictures: AnnotatedImages,
        category_of: Mapping[int, int],
        *,
        score: float = 0.5,
        mask: float = 0.5,
    ) -> None:
        self._radii = PyramidRadii(model)
        self._pictures, self._category_of = pictures, dict(category_of)
        self._score, self._mask = score, mask

    def start(self, i: int) -> None:
        self._size = self._pictures.image(i)
        self._annotated: dict[int, list[tuple[masks.Rle, bool]]] = defaultdict(list)
        for region in self._pictures.instances(i):
            self._annotated[region.category_id].append((region.rle, region.crowd))
        self._found: list[np.ndarray] = []
        self._radii.open()

    def add(self, k: int, answer: PromptPrediction) -> None:
        if k not in self._category_of:
            return
        kept = regions.confident(answer, self._score)
        if not len(kept.boxes):
            return
        annotated = self._annotated.get(self._category_of[k], ())
        overlap = masks.iou(
            regions.detection_masks(kept, self._size, self._mask),
            [rle for rle, _ in annotated],
            [crowd for _, crowd in annotated],
        )
        crowd = np.array([crowd for _, crowd in annotated], bool)
        iou = overlap[:, ~crowd].max(axis=1, initial=0)
        counted = (iou >= CORRECT_IOU) | (overlap[:, crowd].max(axis=1, initial=0) < CORRECT_IOU)
        table = np.stack([self._mean_radii(kept), kept.scores.double().cpu().numpy(), iou])
        self._found.append(table[:, counted])

    def finish(self) -> dict[str, np.ndarray]:
        """`detections` (3, n): mean normalised radius, score, and IoU with the best instance."""
        self._radii.close()
        return {"detections": np.concatenate([np.zeros((3, 0)), *self._found], axis=1)}

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        detections = Detections(records)
        every = np.ones(len(detections.error))
        metrics = {
            "detections": float(len(detections.error)),
            "wrong": float(detections.wrong.sum()),
            **detections.figures(every),
            "aurc/random": float(detections.error.mean()) if len(every) else float("nan"),
            "aurc/oracle": aurc(Ranking(detections.error), detections.error, every),
        }
        return {f"uncertainty/{key}": value for key, value in metrics.items() if np.isfinite(value)}

    def headline(self, records: Sequence[Record]) -> Headline:
        """ρ and AUROC of both, as far as they are defined."""
        detections = Detections(records)
        defined = detections.figures(np.ones(len(detections.error)))
        shown = [key for key, value in defined.items() if np.isfinite(value)]

        def figures(weights: np.ndarray) -> dict[str, float]:
            found = detections.figures(weights[detections.picture])
            return {f"uncertainty/{key}": found[key] for key in shown}

        return figures

    def _mean_radii(self, kept: PromptPrediction) -> np.ndarray:
        """(n,) means over the positions inside each mask; of a mask that has none, over its most probable ones."""
        radii = self._radii.map
        probabilities = kept.mask_probabilities(*radii.shape).flatten(1)
        inside = (probabilities >= probabilities.amax(dim=1, keepdim=True).clamp(max=self._mask)).double()
        means: np.ndarray = (inside @ radii.flatten() / inside.sum(dim=1)).cpu().numpy()
        return means


class Detections:
    """The detections of all pictures, sorted once by each uncertainty.

    Attributes:
        error: (n,) 1 − IoU. wrong: (n,) IoU < 1/2. picture: (n,) place of the picture among the records.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        tables = [record["detections"] for record in records]
        radius, score, iou = np.concatenate(tables, axis=1)
        self.picture = np.repeat(np.arange(len(tables)), [table.shape[1] for table in tables])
        self.error, self.wrong = 1 - iou, iou < CORRECT_IOU
        self._uncertainty = {"radius": Ranking(radius), "score": Ranking(1 - score)}
        self._errors = Ranking(self.error)

    def figures(self, weights: np.ndarray) -> dict[str, float]:
        """`<kind>/spearman`, `<kind>/auroc` and `<kind>/aurc`, NaN where undefined; (n,) weights are whole numbers."""
        found = {}
        for kind, ranking in self._uncertainty.items():
            found[f"{kind}/spearman"] = spearman(ranking, self._errors, weights)
            found[f"{kind}/auroc"] = auroc(ranking, self.wrong, weights)
            found[f"{kind}/aurc"] = aurc(ranking, self.error, weights)
        return found

    def curve(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Coverage and risk (mean error) of the risk–coverage curve of "radius" or "score"."""
        return risk_coverage(self._uncertainty[kind], self.error, np.ones(len(self.error)))
