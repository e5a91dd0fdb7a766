"""What a model answers, and how two answers differ: shared by the tests of everything that is injected."""

from __future__ import annotations

import torch

from sam3_hyperet.evaluation.predictor import Predictor

PROMPTS = ("car", "small red house", "sky")


@torch.no_grad()
def answers(model, picture, prompts=PROMPTS, resolution=128):
    """Logits, presence, boxes, masks and the semantic map of every prompt."""
    found = list(Predictor(model, prompts, resolution).predict(picture))
    return {
        "scores": torch.stack([a.query_scores for a in found]),
        "boxes": torch.stack([a.boxes for a in found]),
        "masks": torch.stack([a.mask_logits for a in found]),
        "semantic": torch.stack([a.semantic_logits for a in found]),
        "presence": torch.tensor([a.presence for a in found]),
    }


def differences(found, expected):
    """Largest difference of each output, relative to its largest value."""
    return {k: float((found[k] - v).abs().max() / v.abs().max()) for k, v in expected.items()}


def largest_relative_difference(found, expected):
    return max(differences(found, expected).values())


def equal(found, expected):
    return all(torch.equal(found[key], value) for key, value in expected.items())
