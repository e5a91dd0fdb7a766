"""Fusion of class evidence: the streaming label map against the plain (C, H, W) argmax."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sam3_hyperet.evaluation.metrics.semantic.label_map_evaluator import FusedLabels, class_values
from sam3_hyperet.evaluation.metrics.semantic.semantic_miou import UNASSIGNED
from sam3_hyperet.evaluation.protocol import FUSIONS

SIZE = (5, 7)


@dataclass(frozen=True)
class ClassEvidence:
    label: int
    presence: float
    scores: Tensor
    masks: Tensor
    semantic: Tensor


@dataclass(frozen=True)
class Thresholds:
    presence: float = 0.5
    score: float = 0.5
    mask: float = 0.5


PLAIN = Thresholds(presence=0, score=0, mask=0)


def fuse(classes, fusion="fused", t=Thresholds()):
    """The label map of all classes, as the evaluator makes it."""
    label_map = FusedLabels(SIZE)
    for one in classes:
        if one.presence >= t.presence:
            kept = one.scores >= t.score
            values = class_values(one.presence, one.scores[kept], one.masks[kept], one.semantic, t.mask)
            label_map.add(one.label, values[fusion])
    return label_map.labels


def random_evidence(seed: int, classes: int = 4) -> list[ClassEvidence]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    counts = [int(n) for n in torch.randint(0, 4, (classes,), generator=generator)]
    return [ClassEvidence(c, float(draw()), draw(n), draw(n, *SIZE), draw(*SIZE)) for c, n in enumerate(counts)]


def plain_fusion(classes: list[ClassEvidence], fusion: str, t: Thresholds) -> Tensor:
    labels = torch.full(SIZE, UNASSIGNED)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            best = -1.0
            for e in classes:
                if e.presence < t.presence:
                    continue
                values = []
                if fusion != "semantic":
                    for s, m in zip(e.scores, e.masks, strict=True):
                        if s >= t.score and m[y, x] >= t.mask:
                            values.append(float(m[y, x] * (s * e.presence)))
                if fusion != "instance" and e.semantic[y, x] >= t.mask:
                    values.append(float(e.semantic[y, x] * e.presence))
                if values and max(values) > best:
                    best, labels[y, x] = max(values), e.label
    return labels


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(FUSIONS), st.sampled_from([0.0, 0.3, 0.5]))
def test_same_as_the_plain_loops(seed: int, fusion: str, threshold: float) -> None:
    classes = random_evidence(seed)
    thresholds = Thresholds(threshold, threshold, threshold)
    assert torch.equal(fuse(iter(classes), fusion, thresholds), plain_fusion(classes, fusion, thresholds))


def test_without_thresholds_it_is_the_argmax() -> None:
    classes = random_evidence(1)
    stacked = torch.stack([e.semantic * e.presence for e in classes])
    assert torch.equal(fuse(classes, "semantic", PLAIN), stacked.argmax(0))


def test_nothing_claimed_is_unassigned() -> None:
    empty = ClassEvidence(3, 1.0, torch.zeros(0), torch.zeros(0, *SIZE), torch.full(SIZE, 0.4))
    assert (fuse([empty]) == UNASSIGNED).all()
    assert (fuse([]) == UNASSIGNED).all()
    assert (fuse([empty], "instance", PLAIN) == UNASSIGNED).all()
    assert (fuse([empty], "fused", PLAIN) == 3).all()


def test_synonyms_count_by_their_maximum_and_ties_go_to_the_first() -> None:
    def semantic(label: int, value: float) -> ClassEvidence:
        return ClassEvidence(label, 1.0, torch.zeros(0), torch.zeros(0, *SIZE), torch.full(SIZE, value))

    assert (fuse([semantic(0, 0.6), semantic(1, 0.7), semantic(0, 0.8)]) == 0).all()
    assert (fuse([semantic(4, 0.6), semantic(2, 0.6)]) == 4).all()


def test_half_precision_evidence_and_unchanged_inputs() -> None:
    classes = random_evidence(2)
    halves = [
        ClassEvidence(e.label, e.presence, e.scores.bfloat16(), e.masks.bfloat16(), e.semantic.bfloat16())
        for e in classes
    ]
    before = [e.masks.clone() for e in halves]
    assert fuse(halves, t=PLAIN).dtype == torch.int64
    assert all(torch.equal(a, e.masks) for a, e in zip(before, halves, strict=True))
