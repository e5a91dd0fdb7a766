"""Options of the training loss, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sam3_hyperet.choices import MIN_RADIUS
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.options import one_of

QUERIES = ("best", "random")


@dataclass(frozen=True)
class LossWeights:
    """Weights of SAM 3's segmentation fine-tuning recipe.

    Attributes:
        box, giou: of the matched boxes' L1 distance and generalised IoU.
        classification: of the queries' scores.
        presence: of the concept's presence in the image.
        mask, dice: of the matched masks, focal and Dice.
        semantic, semantic_dice: of the semantic map, cross-entropy and Dice.
        one_to_many: of the decoder's second branch, in which several queries match an object.
    """

    box: float = 5.0
    giou: float = 2.0
    classification: float = 20.0
    presence: float = 20.0
    mask: float = 200.0
    dice: float = 10.0
    semantic: float = 20.0
    semantic_dice: float = 30.0
    one_to_many: float = 2.0


@dataclass(frozen=True)
class AlignmentOptions:
    """Options of the losses between queries and texts.

    Attributes:
        alignment: weight of the contrastive term; 0: it is not computed.
        entailment: weight of the entailment term; 0: it is not computed.
        temperature: τ of the similarity −d/τ.
        curvature: c > 0 of the space that both compare in; not the adjustments' own.
        query: the visual side of a pair: the "best" scored query among those matched to the prompt, or a "random" one
            of them, by PyTorch's global generator (random query selection, RQS [4]).
        prune_probability: of dropping a word of the text (see `pruned`); 0: never.
        min_radius: K of the cones.
    """

    alignment: float = 0.0
    entailment: float = 0.0
    temperature: float = 0.07
    curvature: float = 1.0
    query: str = "best"
    prune_probability: float = 0.0
    min_radius: float = MIN_RADIUS

    def __post_init__(self) -> None:
        one_of("loss.query", self.query, QUERIES)
        for name in ("alignment", "entailment"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"loss.{name}={getattr(self, name)}; expected a weight from 0")
        for name in ("temperature", "curvature", "min_radius"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigError(f"loss.{name}={getattr(self, name)}; expected a positive number")
        if not 0.0 <= self.prune_probability <= 1.0:
            raise ConfigError(f"loss.prune_probability={self.prune_probability}; expected a probability")


@dataclass(frozen=True)
class LossOptions(LossWeights, AlignmentOptions):
    """All options of a training loss: SAM 3's weights, and those of the losses between queries and texts."""
