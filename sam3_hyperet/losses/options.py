"""Options of the training loss, without torch."""

import math
from dataclasses import dataclass
from typing import Annotated

from sam3_hyperet.choices import MIN_RADIUS
from sam3_hyperet.options import PositiveFloat, Probability, check_fields, number

QUERIES = ("best", "random")
_Weight = Annotated[float, number(lambda value: 0 <= value < math.inf, "a weight from 0")]


@dataclass(frozen=True)
class LossWeights:
    """Weights of SAM 3's segmentation fine-tuning recipe.

    Attributes:
        box, giou: of the matched boxes' L1 distance and generalised IoU.
        classification: of the queries' scores.
        presence: of the concept's presence in the image.
        mask, dice: of the matched masks, focal and Dice.
        semantic, semantic_dice: of the semantic map of present prompts, focal and Dice.
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

    alignment: _Weight = 0.0
    entailment: _Weight = 0.0
    temperature: PositiveFloat = 0.07
    curvature: PositiveFloat = 1.0
    query: Annotated[str, QUERIES] = "best"
    prune_probability: Probability = 0.0
    min_radius: PositiveFloat = MIN_RADIUS

    def __post_init__(self) -> None:
        check_fields(self, "loss")


@dataclass(frozen=True)
class LossOptions(LossWeights, AlignmentOptions):
    """All options of a training loss: SAM 3's weights, and those of the losses between queries and texts."""
