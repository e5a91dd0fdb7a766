"""A cheap first look at every prompt, by which a cascade decides which ones get the full model.

The model's own fusion encoder and decoder, adapters included, see the last level of the pyramid averaged over squares
of `POOLING` positions: attention among n positions costs n², all else n.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.inference.grounding import Grounding
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.modeling.parameters import adapter_sites

POOLING = 2
AT_ONCE = 32
"""Prompts of every pass, the last one repeated to fill it: the last bits of a score depend on their number."""


class FirstLook:
    """First looks by a model, in evaluation mode, of which this has modules of its own: hooks on them see no look."""

    def __init__(self, model: host.Sam3Image, pooling: int = POOLING) -> None:
        self._model, self._pooling = shared_copy(model), pooling
        own, of_model = adapter_sites(self._model).values(), adapter_sites(model).values()
        self._sites = list(zip(own, of_model, strict=True))

    def scores(self, backbone_out: dict[str, Any], prompts: Sequence[int]) -> Tensor:
        """(2, n) best score σ(logit)·σ(presence) and presence of prompts, as `Grounding.ground` takes them.

        They depend on the image and on the list of prompts alone.
        """
        for own, of_model in self._sites:
            own.dial = of_model.dial
        grounding = Grounding(self._model, pooled(backbone_out, self._pooling))
        found = []
        for start in range(0, len(prompts), AT_ONCE):
            of_pass = list(prompts[start : start + AT_ONCE])
            out, _ = grounding.ground(of_pass + of_pass[-1:] * (AT_ONCE - len(of_pass)))
            presence = out["presence_logit_dec"].float().flatten().sigmoid()
            best = out["pred_logits"].float().squeeze(-1).sigmoid().amax(dim=1) * presence
            found.append(torch.stack([best, presence]))
        return torch.cat(found, dim=1)[:, : len(prompts)]


class SparedPrediction(PromptPrediction):
    """The prediction for a prompt that is spared: the first look's presence, no query, and an empty semantic map."""

    def __init__(self, presence: float, device: torch.device) -> None:
        none = torch.zeros(0, device=device)
        super().__init__(none, none.new_zeros(0, 4), none.new_zeros(0, 1, 1), none.new_full((1, 1), -100.0), presence)


def pooled(backbone_out: dict[str, Any], pooling: int) -> dict[str, Any]:
    """Features of an image whose last level, with its positions' encoding, is averaged over squares; incomplete squares
    at the border are averages of what they have."""

    def smaller(levels: Sequence[Tensor]) -> list[Tensor]:
        return [*levels[:-1], F.avg_pool2d(levels[-1], pooling, ceil_mode=True)]

    pyramid = smaller(backbone_out["backbone_fpn"])
    encoding = smaller(backbone_out["vision_pos_enc"])
    return {**backbone_out, "backbone_fpn": pyramid, "vision_pos_enc": encoding, "vision_features": pyramid[-1]}
