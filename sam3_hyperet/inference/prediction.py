"""A model's prediction for one prompt on one image, and its detections at the size of the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam3_hyperet.masks import Rle, area, encode_masks

Encoded = dict[str, Any]
"""Image features as the model's backbone returns them; `backbone_fpn` is the pyramid, highest resolution first."""
CONFIDENT_SCORE = 0.5
"""From this score, presence included, a detection counts where no curve over all scores is drawn."""
BYTES_AT_ONCE = 256 * 2**20
"""Most bytes of probabilities that are enlarged together; those of one mask where it alone has more."""
_Masks = Tensor | Callable[[Tensor], Tensor]
_SemanticMap = Tensor | Callable[[], Tensor]
Features = Mapping[str, Callable[[], Tensor]]
"""Features that depend on the prompt, by place: functions of no argument to (D, h, w)."""

Compute = Callable[["PromptPrediction", int, int], Mapping[str, Tensor]]
"""Maps (height, width) by name, -inf where they say nothing, of a prediction at a size; none where it says nothing."""


class PromptPrediction:
    """Prediction for one prompt on one image, at the model's own resolution.

    Args:
        query_scores: (Q,) σ(logit) of each object query: how likely it is one, if the concept is there.
        boxes: (Q, 4) x0, y0, x1, y1 as fractions of the image's sides; they may reach beyond the image.
        mask_logits: (Q, h, w), or a function that decodes those of the queries at given positions.
        semantic_logits: (h, w) of the head's one semantic map for the prompt, or a function that decodes it.
        presence: probability that the concept is in the image.
        features: of the image for the prompt, by place; none where the model's parts are not SAM 3's own.

    A function is called when its logits are first needed, on the model as it is then; so choose queries before.
    """

    def __init__(
        self,
        query_scores: Tensor,
        boxes: Tensor,
        mask_logits: _Masks,
        semantic_logits: _SemanticMap,
        presence: float,
        features: Features | None = None,
    ) -> None:
        self.query_scores, self.boxes, self.presence, self.features = query_scores, boxes, presence, features or {}
        self._masks, self._semantic = mask_logits, semantic_logits
        self._above = dict[float, PromptPrediction]()

    @cached_property
    def mask_logits(self) -> Tensor:
        """(Q, h, w)."""
        if isinstance(self._masks, Tensor):
            return self._masks
        return self._masks(torch.arange(len(self.boxes), device=self.boxes.device))

    @cached_property
    def semantic_logits(self) -> Tensor:
        """(h, w)."""
        return self._semantic if isinstance(self._semantic, Tensor) else self._semantic()

    @property
    def scores(self) -> Tensor:
        """(Q,) σ(logit)·σ(presence): the score of a detection."""
        return self.query_scores * self.presence

    def top(self, count: int) -> PromptPrediction:
        """Only the best `count` queries, best first."""
        return self.keep(self.query_scores.argsort(descending=True, stable=True)[:count])

    def above(self, score: float) -> PromptPrediction:
        """Only the queries whose own score, without the presence, is at least `score`; found once, for it waits."""
        if score not in self._above:
            self._above[score] = self.keep((self.query_scores >= score).nonzero()[:, 0])
        return self._above[score]

    def keep(self, queries: Tensor) -> PromptPrediction:
        """Only the queries at these positions, in this order."""
        masks = self._masks
        kept: _Masks = masks[queries] if isinstance(masks, Tensor) else lambda positions: masks(queries[positions])
        scores, boxes = self.query_scores[queries], self.boxes[queries]
        return PromptPrediction(scores, boxes, kept, self._semantic, self.presence, self.features)

    def mask_probabilities(self, height: int, width: int) -> Tensor:
        """(Q, height, width) probabilities: logits enlarged bilinearly, then the sigmoid, as SAM 3's processor does."""
        if not len(self.boxes):
            return self.boxes.new_zeros(0, height, width)
        return _enlarge(self.mask_logits, height, width)

    def each_mask_probabilities(self, height: int, width: int) -> Iterator[Tensor]:
        """(height, width) probabilities of one mask after the other; never more than `BYTES_AT_ONCE` of them."""
        for part in self._parts(height, width):
            yield from _enlarge(part, height, width)

    def rles(self, start: int, stop: int, height: int, width: int, threshold: float = 0.5) -> list[Rle]:
        """`masks` of the queries from `start` to `stop` as COCO run lengths, made from a few masks at a time."""
        count, found = max(1, BYTES_AT_ONCE // (4 * height * width)), list[Rle]()
        for first in range(start, stop, count):
            of_part = slice(first, min(first + count, stop))
            scores, boxes, logits = self.query_scores[of_part], self.boxes[of_part], self.mask_logits[of_part]
            part = PromptPrediction(scores, boxes, logits, self._semantic, self.presence)
            found += encode_masks(part.masks(height, width, threshold))
        return found

    def detections(
        self,
        height: int,
        width: int,
        max_dets: int | None = 100,
        mask_threshold: float = 0.5,
        score_threshold: float = 0.0,
    ) -> PromptDetections:
        """Those of at least a score, presence included, at the size of the image; all with max_dets=None."""
        kept = self.above(score_threshold / max(self.presence, 1e-12)) if score_threshold else self
        most = len(kept.boxes) if max_dets is None else max_dets
        return PromptDetections(kept, height, width, most, mask_threshold)

    def stitched(self, compute: Compute, height: int, width: int) -> Mapping[str, Tensor]:
        """Maps of the image: what `compute` makes of a prediction at a size."""
        return compute(self, height, width)

    def masks(self, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
        """(Q, height, width) bool: where `mask_probabilities` reaches the threshold, several times quicker on a CPU.

        On another device never more than `BYTES_AT_ONCE` of probabilities are held.
        """
        parts = self._parts(height, width)
        if len(parts) == 1 and self.mask_logits.device.type != "cpu":  # its copy on the host is not copied once more
            return (_enlarge(parts[0], height, width) >= threshold).cpu().numpy()
        masks = np.empty((len(self.boxes), height, width), dtype=bool)
        if not len(masks):
            return masks
        if self.mask_logits.device.type != "cpu":
            first = 0
            for part in parts:
                found = _enlarge(part, height, width) >= threshold
                masks[first : first + len(part)] = found.cpu().numpy()
                first += len(part)
            return masks
        for mask, logits in zip(masks, self.mask_logits.float().numpy(), strict=True):
            _reached(logits, threshold, mask)
        return masks

    def areas(self, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
        """(Q,) float64 pixels of `masks`, counted part by part on their device, which none of them leaves."""
        if self.mask_logits.device.type == "cpu":
            mask = np.empty((height, width), dtype=bool)  # of one after the other
            pixels = [_reached(logits, threshold, mask) for logits in self.mask_logits.float().numpy()]
            return np.array(pixels, dtype=np.float64)
        counts = [(_enlarge(x, height, width) >= threshold).flatten(1).sum(dim=1) for x in self._parts(height, width)]
        return torch.cat(counts).cpu().double().numpy() if counts else np.empty(0)

    def _parts(self, height: int, width: int) -> tuple[Tensor, ...]:
        """The mask logits in parts that are enlarged together."""
        if not len(self.boxes):
            return ()
        return torch.split(self.mask_logits, max(1, BYTES_AT_ONCE // (4 * height * width)))

    def semantic_probabilities(self, height: int, width: int) -> Tensor:
        """(height, width) probabilities of the semantic map."""
        return _enlarge(self.semantic_logits[None], height, width)[0]


class PromptDetections:
    """The detections of one prompt at the size of its image, best first, computed once for every metric.

    At most `max_dets` are kept, more only where more are confident; pixels of a mask are those with a probability from
    `mask_threshold`. `scores` are (n,) float64, presence included; `boxes` (n, 4) float64 x0, y0, x1, y1 in pixels, SAM
    3's own: they may reach beyond the image. The first `confident` have `CONFIDENT_SCORE` or more.
    """

    def __init__(
        self, prediction: PromptPrediction, height: int, width: int, max_dets: int = 100, mask_threshold: float = 0.5
    ) -> None:
        self.prediction, self.height, self.width, self._mask_threshold = prediction, height, width, mask_threshold
        order = prediction.query_scores.argsort(descending=True, stable=True)
        ranked = torch.cat([prediction.query_scores[order, None], prediction.boxes[order]], dim=1).cpu()
        least = CONFIDENT_SCORE / prediction.presence if prediction.presence > 0 else math.inf
        self.confident = int((ranked[:, 0] >= least).sum())
        count = max(max_dets, self.confident)
        self.scores = (ranked[:count, 0] * prediction.presence).double().numpy()
        self.boxes = (ranked[:count, 1:] * torch.tensor([width, height] * 2)).double().numpy()
        self._kept = prediction.keep(order[:count])
        self._rles: list[Rle] = []

    @cached_property
    def masks(self) -> np.ndarray:
        """(n, height, width) bool, all at once, which neither `rles` nor `areas` hold."""
        return self._kept.masks(self.height, self.width, self._mask_threshold)

    def rles(self, count: int) -> list[Rle]:
        """The masks of the best `count` detections as COCO run lengths."""
        if count > len(self._rles):
            wanted = len(self._rles), min(count, len(self.scores))
            self._rles += self._kept.rles(*wanted, self.height, self.width, self._mask_threshold)
        return self._rles[:count]

    def areas(self, count: int) -> np.ndarray:
        """(count,) float64 pixels of the best `count` detections' masks."""
        if len(self._rles) >= count:
            return np.array([area(rle) for rle in self._rles[:count]], dtype=np.float64)
        return self._areas[:count]

    @cached_property
    def _areas(self) -> np.ndarray:
        """(n,) areas, for those who ask for no mask."""
        return self._kept.areas(self.height, self.width, self._mask_threshold)

    @property
    def cell(self) -> tuple[float, float]:
        """Height and width, in pixels of the image, of a position of the masks as the model decodes them."""
        rows, columns = self._kept.mask_logits.shape[-2:]
        return self.height / rows, self.width / columns

    def mask_probabilities(self, count: int, height: int, width: int) -> Tensor:
        """(count, height, width) probabilities of the best `count` detections' masks, one or more."""
        return _enlarge(self._kept.mask_logits[:count], height, width)


def _enlarge(logits: Tensor, height: int, width: int) -> Tensor:
    larger = F.interpolate(logits[None].float(), (height, width), mode="bilinear", align_corners=False)
    return larger[0].sigmoid_()


def _reached(logits: np.ndarray, threshold: float, mask: np.ndarray) -> int:
    """Write where enlarged logits reach a probability into a bool mask (height, width); how many pixels that are."""
    least = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
    enlarged = cv2.resize(logits, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return int(np.count_nonzero(np.greater_equal(enlarged, least, out=mask)))
