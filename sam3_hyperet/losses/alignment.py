"""Contrastive and entailment losses of matched queries and their texts on a hyperboloid.

Both are off by default. Embeddings, (D,) each, are divided by √D, which brings normalised queries to length 1 [3], and
taken as tangent vectors at the origin of the hyperboloid of curvature −c; c is the loss's own. Vectors beyond the edge
of the Poincaré ball as `poincare` projects it are taken at it. All of it is fp32, whatever the autocast dtype.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.gate import mean_text
from sam3_hyperet.choices import VISUAL
from sam3_hyperet.hyperbolic import closed_form, lorentz
from sam3_hyperet.hyperbolic.cones import outside_cone
from sam3_hyperet.losses.options import AlignmentOptions
from sam3_hyperet.losses.text_pruning import pruned


class AlignmentLoss(nn.Module):
    """Means over pairs of a query and a text, one for every prompt with a matched query and a text of its own.

    - `alignment_loss`: InfoNCE of −d(query, text)/τ, the mean of both directions [3]; the text is the pruned one where
      texts are pruned. Pairs of the same text are not negatives of each other.
    - `entailment_loss`: how far the query lies outside the cone of its text, in radians [3], and, where texts are
      pruned, how far the text lies outside the cone of its pruned form.
    """

    def __init__(self, options: AlignmentOptions) -> None:
        super().__init__()
        self.options = options
        weights = {"alignment_loss": options.alignment, "entailment_loss": options.entailment}
        self.weights = {name: weight for name, weight in weights.items() if weight}

    def forward(self, model: host.Sam3Image, batch: host.BatchedDatapoint, output: dict[str, Any]) -> dict[str, Tensor]:
        """The terms that have a weight, unweighted, of the last stage and step of `model(batch)`; 0 without a match."""
        if not self.weights:
            return {}
        queries = output["queries"]
        prompts, chosen = matched_queries(output, self.options.query)
        if not len(prompts):
            return {name: queries.new_zeros((), dtype=torch.float32) for name in self.weights}
        stage = batch.find_inputs[0]
        if len(stage.input_boxes):  # the text of boxes alone says nothing
            has_text = ~_boxes_alone(batch)[prompts]
            prompts, chosen = prompts[has_text], chosen[has_text]
            if not len(prompts):
                return {name: queries.new_zeros((), dtype=torch.float32) for name in self.weights}
        ids = stage.text_ids[prompts]
        texts = [batch.find_text_batch[i] for i in ids.tolist()]
        general = [pruned(text, self.options.prune_probability) for text in texts]
        encoded = output["prev_encoder_out"]["backbone_out"]
        text = mean_text(encoded["language_features"][:, ids], encoded["language_mask"][ids])
        general_text = text if general == texts else _encoded(model, general)
        with torch.autocast(queries.device.type, enabled=False):
            query, text, general_text = map(self._point, (queries[prompts, chosen], text, general_text))
            terms = {}
            if "alignment_loss" in self.weights:
                c, temperature = self.options.curvature, self.options.temperature
                similarity = -lorentz.dist(query[:, None], general_text[None], c) / temperature
                terms["alignment_loss"] = contrastive(similarity, general)
            if "entailment_loss" in self.weights:
                outside = partial(outside_cone, c=self.options.curvature, min_radius=self.options.min_radius)
                terms["entailment_loss"] = outside(text, query).mean()
                if shorter := [i for i, pair in enumerate(zip(general, texts, strict=True)) if pair[0] != pair[1]]:
                    terms["entailment_loss"] += outside(general_text[shorter], text[shorter]).mean()
        return terms

    def _point(self, features: Tensor) -> Tensor:
        """(n, D) embeddings as points of the hyperboloid, (n, D + 1)."""
        tangent = features.float() / math.sqrt(features.shape[-1])
        return lorentz.expmap0(closed_form.mobius(tangent, self.options.curvature), self.options.curvature)


def matched_queries(output: dict[str, Any], which: str) -> tuple[Tensor, Tensor]:
    """Prompts with a matched query in the last layer, ascending, and one such query of each, of `QUERIES`; (n,) each.

    `output` is SAM 3's, with `indices` and scores `pred_logits` (prompts, queries, 1).
    """
    scores = output["pred_logits"].detach().squeeze(-1)
    matched = torch.zeros_like(scores, dtype=torch.bool)
    matched[output["indices"][0], output["indices"][1]] = True
    # drawn on the CPU, whose generator's state is part of a saved training state
    rank = scores if which == "best" else torch.rand(scores.shape, device="cpu").to(scores.device)
    prompts = matched.any(dim=1).nonzero().squeeze(1)
    return prompts, rank.masked_fill(~matched, -math.inf).argmax(dim=1)[prompts]


def _boxes_alone(batch: host.BatchedDatapoint) -> Tensor:
    """Whether each prompt is of boxes alone."""
    stage = batch.find_inputs[0]
    is_placeholder = torch.tensor([text == VISUAL for text in batch.find_text_batch], device=stage.text_ids.device)
    alone: Tensor = is_placeholder[stage.text_ids] & ~stage.input_boxes_mask.all(dim=1)
    return alone


def contrastive(similarity: Tensor, texts: Sequence[str]) -> Tensor:
    """Symmetric InfoNCE of an (n, n) matrix with the pairs on its diagonal; pairs of one text are no negatives."""
    same = torch.tensor([[a == b for b in texts] for a in texts], device=similarity.device).fill_diagonal_(False)
    logits, pairs = similarity.masked_fill(same, -math.inf), torch.arange(len(texts), device=similarity.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2.0


def _encoded(model: host.Sam3Image, texts: Sequence[str]) -> Tensor:
    """(n, D) embeddings of texts, each distinct one encoded once."""
    distinct = list(dict.fromkeys(texts))
    encoded = model.backbone.forward_text(distinct, device=model.device)
    return mean_text(encoded["language_features"], encoded["language_mask"])[[distinct.index(text) for text in texts]]
