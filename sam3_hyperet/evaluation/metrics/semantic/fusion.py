"""From the evidence of every class to one label map: three ways to fuse a promptable segmenter's outputs.

A class has a presence p, instances of score s_i and mask probability m_i, and a semantic probability g. Its
value at a pixel is

- `instance`: p · max_i s_i m_i (as in SAM 3's paper, whose thresholds are not published)
- `semantic`: p · g
- `fused`:    p · max(max_i s_i m_i, g)

A class claims a pixel where m_i ≥ `thresholds.mask` for an instance that is kept (`instance`, `fused`) or
g ≥ `thresholds.mask` (`semantic`, `fused`). A pixel goes to the claiming class with the largest value, the
first of equals; a pixel that no class claims is `UNASSIGNED`. Classes come one by one: memory is a few maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics.semantic.semantic_miou import UNASSIGNED
from sam3_hyperet.evaluation.protocol import FUSIONS, FusionThresholds


@dataclass(frozen=True)
class ClassEvidence:
    """What the model says about one prompt in one image, at the size of the label map.

    label: the class; several prompts of one label (synonyms) count by their maximum.
    presence: P(it is there). scores: (n,), P(instance | it is there), without the factor presence.
    masks: (n, H, W) probabilities. semantic: (H, W) probabilities.
    """

    label: int
    presence: float
    scores: Tensor
    masks: Tensor
    semantic: Tensor


class Fusion:
    """A label map that classes are added to, one by one.

    labels: (H, W), int64, `UNASSIGNED` where no class so far claims the pixel; on the evidence's device.
    Raises ConfigError for an unknown fusion.
    """

    def __init__(self, name: str, size: Sequence[int], thresholds: FusionThresholds | None = None) -> None:
        if name not in FUSIONS:
            raise ConfigError(f"unknown fusion {name!r}; the fusions are {', '.join(FUSIONS)}")
        self.name = name
        self.thresholds = thresholds or FusionThresholds()
        self.labels = torch.full(tuple(size), UNASSIGNED)
        self._best = torch.full(tuple(size), -torch.inf)

    def add(self, evidence: ClassEvidence) -> None:
        if evidence.presence >= self.thresholds.presence:
            self.add_value(evidence.label, class_value(evidence, self.name, self.thresholds))

    def add_value(self, label: int, value: Tensor) -> None:
        """Add a class by its value at each pixel, as `class_value` gives it."""
        self.labels, self._best = self.labels.to(value.device), self._best.to(value.device)
        won = value > self._best
        self._best[won] = value[won]
        self.labels[won] = label


def fuse(
    classes: Iterable[ClassEvidence],
    size: Sequence[int],
    fusion: str = "fused",
    thresholds: FusionThresholds | None = None,
) -> Tensor:
    """The label map (H, W) of all classes of one image; size: (H, W)."""
    label_map = Fusion(fusion, size, thresholds)
    for evidence in classes:
        label_map.add(evidence)
    return label_map.labels


def class_values(evidence: ClassEvidence, thresholds: FusionThresholds) -> dict[str, Tensor]:
    """`class_value` of all three fusions."""
    instance, semantic = (class_value(evidence, name, thresholds) for name in ("instance", "semantic"))
    return {"instance": instance, "semantic": semantic, "fused": torch.maximum(instance, semantic)}


def class_value(evidence: ClassEvidence, fusion: str, thresholds: FusionThresholds) -> Tensor:
    """One class's value at each pixel, (H, W) float32; -inf where it makes no claim."""
    value = torch.full_like(evidence.semantic, -torch.inf, dtype=torch.float32)
    if fusion != "instance":
        claimed = evidence.semantic >= thresholds.mask
        value = torch.where(claimed, evidence.semantic.float() * evidence.presence, value)
    if fusion != "semantic":
        for score, mask in zip(evidence.scores, evidence.masks, strict=True):
            claimed = mask >= thresholds.mask
            if score >= thresholds.score and claimed.sum() >= thresholds.area:
                weighted = mask.float() * (score.float() * evidence.presence)
                value = torch.maximum(value, weighted.masked_fill_(~claimed, -torch.inf))
    return value
