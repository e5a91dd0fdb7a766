"""Ask a model for every name of a vocabulary on an image: the image is encoded once, the vocabulary once per run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError


@dataclass(frozen=True)
class PromptPrediction:
    """Raw answer to one prompt on one image, at the model's own resolution.

    Attributes:
        query_scores: (Q,) σ(logit) of each object query: how likely it is one, if the concept is there.
        boxes: (Q, 4) x0, y0, x1, y1 as shares of the image's sides.
        mask_logits: (Q, h, w).
        semantic_logits: (h, w) the head's one semantic map for the prompt.
        presence: probability that the concept is in the image.
    """

    query_scores: Tensor
    boxes: Tensor
    mask_logits: Tensor
    semantic_logits: Tensor
    presence: float

    @property
    def scores(self) -> Tensor:
        """(Q,) σ(logit)·σ(presence): the score of a detection."""
        return self.query_scores * self.presence

    def top(self, count: int) -> PromptPrediction:
        """Only the best `count` queries, best first."""
        return self._keep(self.query_scores.argsort(descending=True, stable=True)[:count])

    def above(self, score: float) -> PromptPrediction:
        """Only the queries whose own score, presence left out, is at least `score`."""
        return self._keep(self.query_scores >= score)

    def _keep(self, which: Tensor) -> PromptPrediction:
        return PromptPrediction(
            self.query_scores[which],
            self.boxes[which],
            self.mask_logits[which],
            self.semantic_logits,
            self.presence,
        )

    def mask_probabilities(self, height: int, width: int) -> Tensor:
        """(Q, height, width) probabilities: logits enlarged bilinearly, then the sigmoid, as SAM 3's processor does."""
        return _enlarge(self.mask_logits, height, width)

    def semantic_probabilities(self, height: int, width: int) -> Tensor:
        """(height, width) probabilities of the semantic map."""
        return _enlarge(self.semantic_logits[None], height, width)[0]


def _enlarge(logits: Tensor, height: int, width: int) -> Tensor:
    if not len(logits):
        return logits.new_zeros(0, height, width)
    larger = F.interpolate(logits[None].float(), (height, width), mode="bilinear", align_corners=False)
    return larger[0].sigmoid()


class Predictor:
    """Ask a SAM 3 image model (with or without adapters) for a fixed vocabulary.

    Args:
        model: in evaluation mode.
        vocabulary: the prompts.
        resolution: side of the model's square input.
        prompts_at_once: prompts per forward pass; memory grows with it.

    Raises:
        ConfigError: no prompt, an empty one, one that SAM 3 would cut short, or an impossible `prompts_at_once`.
    """

    def __init__(self, model: nn.Module, vocabulary: Sequence[str], resolution: int, prompts_at_once: int = 16) -> None:
        if type(prompts_at_once) is not int or prompts_at_once < 1:
            raise ConfigError(f"prompts_at_once={prompts_at_once!r}; expected an integer from 1")
        check_prompts(model, vocabulary)
        self.model = model
        self.vocabulary = tuple(vocabulary)
        self.prompts_at_once = prompts_at_once
        self.device = next(model.parameters()).device
        self.resolution = resolution
        with torch.inference_mode():
            self.text = model.backbone.forward_text(list(self.vocabulary), device=self.device)

    @torch.inference_mode()
    def encode(self, picture: Image.Image) -> dict[str, object]:
        """Image features of one picture, as the model's backbone returns them."""
        pixels = model_input(picture, self.resolution, self.device)
        features: dict[str, object] = self.model.backbone.forward_image(pixels[None])
        return features

    @torch.inference_mode()
    def predict(self, picture: Image.Image) -> Iterator[PromptPrediction]:
        """The answer to each prompt, in the vocabulary's order."""
        backbone_out = {**self.encode(picture), **self.text}
        for start in range(0, len(self.vocabulary), self.prompts_at_once):
            yield from self._ground(backbone_out, range(start, min(start + self.prompts_at_once, len(self.vocabulary))))

    def _ground(self, backbone_out: dict[str, object], prompts: range) -> Iterator[PromptPrediction]:
        output = self.model.forward_grounding(
            backbone_out=dict(backbone_out),
            find_input=find_stage(prompts, self.device),
            find_target=None,
            geometric_prompt=self.model._get_dummy_prompt(len(prompts)),
        )
        presence = output["presence_logit_dec"].float().sigmoid().reshape(len(prompts))
        scores = output["pred_logits"].float().sigmoid().squeeze(-1)
        for i in range(len(prompts)):
            yield PromptPrediction(
                query_scores=scores[i],
                boxes=output["pred_boxes_xyxy"][i].float(),
                mask_logits=output["pred_masks"][i],
                semantic_logits=output["semantic_seg"][i, 0],
                presence=float(presence[i]),
            )


def model_input(picture: Image.Image, resolution: int, device: torch.device) -> Tensor:
    """(3, resolution, resolution) pixels in [-1, 1], resized on the device as SAM 3's processor does."""
    pixels = tv.to_dtype(tv.to_image(picture).to(device), torch.uint8, scale=True)
    pixels = tv.to_dtype(tv.resize(pixels, [resolution, resolution]), torch.float32, scale=True)
    return tv.normalize(pixels, [0.5] * 3, [0.5] * 3)


def check_prompts(model: nn.Module, prompts: Sequence[str]) -> None:
    """Raise a ConfigError unless there are prompts and SAM 3 reads all of each: it silently cuts the longer ones."""
    if not prompts:
        raise ConfigError("there is no prompt; expected one noun phrase or more")
    tokenizer = model.backbone.language_backbone.tokenizer
    most = host.CONTEXT_LENGTH - 2  # the start and the end take one each
    for prompt in prompts:
        if not prompt.strip():
            raise ConfigError(f"the prompt {prompt!r} is empty; expected a noun phrase")
        if (count := len(tokenizer.encode(prompt))) > most:
            raise ConfigError(f"the prompt {prompt!r} has {count} tokens; SAM 3 reads {most} and drops the rest")


def find_stage(prompts: range, device: torch.device) -> host.FindStage:
    """SAM 3's description of a query: these prompts of the vocabulary, on the one picture, without boxes or points."""
    return host.FindStage(
        img_ids=torch.zeros(len(prompts), dtype=torch.long, device=device),
        text_ids=torch.tensor(list(prompts), dtype=torch.long, device=device),
        input_boxes=None,
        input_boxes_mask=None,
        input_boxes_label=None,
        input_points=None,
        input_points_mask=None,
    )
