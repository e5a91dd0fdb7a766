"""What a model answers, and how two answers differ: shared by the tests of everything that is injected."""

from __future__ import annotations

import numpy as np
import torch

from sam3_hyperet.inference.grounding import find_stage
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.inference.predictor import model_input

PROMPTS = ("car", "small red house", "sky")


@torch.no_grad()
def answers(model, picture, prompts=PROMPTS, resolution=128):
    """Scores, presence, boxes, masks and the semantic map of every prompt, by SAM 3's own forward pass."""
    device = torch.device("cpu")
    output = model.forward_grounding(
        backbone_out={
            **model.backbone.forward_image(model_input(picture, resolution, device)[None]),
            **model.backbone.forward_text(list(prompts), device=device),
        },
        find_input=find_stage(range(len(prompts)), device),
        find_target=None,
        geometric_prompt=model._get_dummy_prompt(len(prompts)),
    )
    return {
        "scores": output["pred_logits"].sigmoid().squeeze(-1),
        "boxes": output["pred_boxes_xyxy"],
        "masks": output["pred_masks"],
        "semantic": output["semantic_seg"].squeeze(1),
        "presence": output["presence_logit_dec"].sigmoid().reshape(len(prompts)),
    }


def differences(found, expected):
    """Largest difference of each output, relative to its largest value."""
    return {k: float((found[k] - v).abs().max() / v.abs().max()) for k, v in expected.items()}


def largest_relative_difference(found, expected):
    return max(differences(found, expected).values())


def equal(found, expected):
    return all(torch.equal(found[key], value) for key, value in expected.items())


def drawn_prediction(detections, height, width, presence=1.0):
    """The prediction of one prompt from (mask, score with presence) pairs; its semantic logits are 0."""
    masks = np.array([mask for mask, _ in detections]).reshape(-1, height, width)
    return PromptPrediction(
        query_scores=torch.tensor([score / presence for _, score in detections]),
        boxes=torch.zeros(len(detections), 4),
        mask_logits=torch.tensor(np.where(masks, 20.0, -20.0), dtype=torch.float32),
        semantic_logits=torch.zeros(height, width),
        presence=presence,
    )
