"""One label map from the evidence of every class: three ways to fuse a promptable segmenter's outputs.

A class has a presence p, instances of score s_i and mask probability m_i, and a semantic probability g. Its
value at a pixel is

- `instance`: p · max_i s_i m_i (as in SAM 3's paper, whose thresholds are not published)
- `semantic`: p · g
- `fused`:    p · max(max_i s_i m_i, g)

A class competes for a pixel where m_i ≥ the mask threshold for one of its instances (`instance`, `fused`) or
g ≥ that threshold (`semantic`, `fused`). The pixel goes to the competing class with the largest value, the
first of equals; a pixel without one is `UNASSIGNED`. Classes come one by one: memory is a few maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sam3_hyperet.evaluation.metrics.semantic.semantic_miou import UNASSIGNED


@dataclass(frozen=True)
class ClassEvidence:
    """A prediction for one class in one image, at the size of the label map.

    label: the class; several prompts of one label (synonyms) count by their maximum.
    presence: P(it is there). scores: (n,), P(instance | it is there), without the factor presence.
    masks: (n, H, W) probabilities. semantic: (H, W) probabilities.
    """

    label: int
    presence: float
    scores: Tensor
    masks: Tensor
    semantic: Tensor


class FusedLabels:
    """A label map to which classes are added one by one.

    labels: (H, W), int64, `UNASSIGNED` where no class so far competes for the pixel; on the values' device.
    """

    def __init__(self, size: Sequence[int]) -> None:
        self.labels = torch.full(tuple(size), UNASSIGNED)
        self._best = torch.full(tuple(size), -torch.inf)

    def add(self, label: int, value: Tensor) -> None:
        """Add a class by its value at each pixel, one of `class_values`."""
        self.labels, self._best = self.labels.to(value.device), self._best.to(value.device)
        self.labels = torch.where(value > self._best, label, self.labels)
        self._best = torch.maximum(value, self._best)


def class_values(evidence: ClassEvidence, mask_threshold: float) -> dict[str, Tensor]:
    """A class's value at each pixel by fusion, (H, W) float32; -inf where it does not compete for the pixel."""
    nothing = torch.full_like(evidence.semantic, -torch.inf, dtype=torch.float32)
    probable = evidence.semantic >= mask_threshold
    semantic = torch.where(probable, evidence.semantic.float() * evidence.presence, nothing)
    instance = nothing
    for score, mask in zip(evidence.scores, evidence.masks, strict=True):
        weighted = mask.float() * (score.float() * evidence.presence)
        instance = torch.maximum(instance, weighted.masked_fill_(mask < mask_threshold, -torch.inf))
    return {"instance": instance, "semantic": semantic, "fused": torch.maximum(instance, semantic)}
