"""Detections as run-length encodings: small to keep, and quick to intersect."""

from __future__ import annotations

from sam3_hyperet.data.annotations import ImageRecord
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.masks import Rle, encode_masks


def confident(answer: PromptPrediction, score: float) -> PromptPrediction:
    """Only the detections whose score, presence included, is at least `score`."""
    return answer.above(score / answer.presence if answer.presence > 0 else float("inf"))


def detection_masks(answer: PromptPrediction, size: ImageRecord, threshold: float) -> list[Rle]:
    """The masks of all queries, at the size of the image."""
    probabilities = answer.mask_probabilities(size.height, size.width)
    return encode_masks((probabilities >= threshold).cpu().numpy())


def semantic_mask(answer: PromptPrediction, size: ImageRecord, threshold: float) -> Rle:
    """The semantic map, at the size of the image."""
    probabilities = answer.semantic_probabilities(size.height, size.width)
    return encode_masks((probabilities >= threshold).cpu().numpy()[None])[0]
