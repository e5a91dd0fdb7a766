"""What a model answers to one prompt on one picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class PromptPrediction:
    """Answer to one prompt on one image, at the model's own resolution.

    Args:
        query_scores: (Q,) σ(logit) of each object query: how likely it is one, if the concept is there.
        boxes: (Q, 4) x0, y0, x1, y1 as shares of the image's sides.
        mask_logits: (Q, h, w), or a function that decodes those of the queries at given positions.
        semantic_logits: (h, w) the head's one semantic map for the prompt, or a function that decodes it.
        presence: probability that the concept is in the image.

    What a function decodes is decoded when first asked for, by the model as it is then; so choose queries before.
    """

    def __init__(
        self,
        query_scores: Tensor,
        boxes: Tensor,
        mask_logits: Tensor | Callable[[Tensor], Tensor],
        semantic_logits: Tensor | Callable[[], Tensor],
        presence: float,
    ) -> None:
        self.query_scores = query_scores
        self.boxes = boxes
        self.presence = presence
        self._masks = mask_logits
        self._semantic = semantic_logits

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
        return self._keep(self.query_scores.argsort(descending=True, stable=True)[:count])

    def above(self, score: float) -> PromptPrediction:
        """Only the queries whose own score, presence left out, is at least `score`."""
        return self._keep((self.query_scores >= score).nonzero()[:, 0])

    def _keep(self, which: Tensor) -> PromptPrediction:
        masks = self._masks
        return PromptPrediction(
            self.query_scores[which],
            self.boxes[which],
            masks[which] if isinstance(masks, Tensor) else lambda positions: masks(which[positions]),
            self._semantic,
            self.presence,
        )

    def mask_probabilities(self, height: int, width: int) -> Tensor:
        """(Q, height, width) probabilities: logits enlarged bilinearly, then the sigmoid, as SAM 3's processor does."""
        if not len(self.boxes):
            return self.boxes.new_zeros(0, height, width)
        return _enlarge(self.mask_logits, height, width)

    def masks(self, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
        """(Q, height, width) bool: where `mask_probabilities` reaches the threshold, several times quicker on a CPU."""
        masks = np.zeros((len(self.boxes), height, width), dtype=bool)
        if not len(masks):
            return masks
        if self.mask_logits.is_cuda:
            return (self.mask_probabilities(height, width) >= threshold).cpu().numpy()
        least = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
        for mask, logits in zip(masks, self.mask_logits.float().numpy(), strict=True):
            np.greater_equal(cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR), least, out=mask)
        return masks

    def semantic_probabilities(self, height: int, width: int) -> Tensor:
        """(height, width) probabilities of the semantic map."""
        return _enlarge(self.semantic_logits[None], height, width)[0]


def _enlarge(logits: Tensor, height: int, width: int) -> Tensor:
    larger = F.interpolate(logits[None].float(), (height, width), mode="bilinear", align_corners=False)
    return larger[0].sigmoid()
