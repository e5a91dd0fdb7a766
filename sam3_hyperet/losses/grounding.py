"""SAM 3's grounding losses with their published weights, of a model's output and its batch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.losses.alignment import AlignmentLoss
from sam3_hyperet.losses.options import LossOptions

TOTAL = "loss"
MATCHED = "loss_matched"
_WEIGHT_OF = {"loss_bbox": "box", "loss_giou": "giou", "loss_ce": "classification", "presence_loss": "presence"}
_WEIGHT_OF |= {"loss_mask": "mask", "loss_dice": "dice"}
_WEIGHT_OF |= {"loss_semantic_seg": "semantic", "loss_semantic_dice": "semantic_dice"}


class Counts(NamedTuple):
    """What the terms are means over: target boxes, prompts, those with a target box, those with a pixel of a mask."""

    boxes: float
    prompts: float
    present: float
    segmented: float


def count_targets(batches: Sequence[host.BatchedDatapoint]) -> Counts:
    """The counts of all batches together."""
    targets = [target for batch in batches for target in batch.find_targets]
    boxes = torch.cat([target.num_boxes for target in targets])
    segmented = torch.cat([_segmented(target) for target in targets])
    counted = torch.stack([boxes.sum(), (boxes > 0).sum(), segmented.sum()]).tolist()  # read from the device once
    return Counts(counted[0], len(boxes), counted[1], counted[2])


def _segmented(target: Any) -> Tensor:
    """Whether each prompt's semantic target has a pixel.

    Without semantic masks SAM 3 unites those of the instances.
    """
    semantic: Tensor | None = target.semantic_segments
    num_boxes: Tensor = target.num_boxes
    return num_boxes > 0 if semantic is None or not len(semantic) else semantic.flatten(1).any(dim=1)


class _Sam3Loss(host.Sam3LossWrapper):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's sum of the losses, with the divisor of the box terms from the targets."""

    def _get_num_boxes(self, targets: dict[str, Tensor]) -> Tensor:
        return targets["boxes_to_average_over"]


class _SemanticLoss(host.loss_fns.SemanticSegCriterion):  # type: ignore[misc]
    """SAM 3's terms of the semantic map, with their divisor from the targets.

    As in its published recipe, absent prompts are left out: that the concept is absent is for the presence to learn.
    """

    def get_loss(self, out_dict: dict[str, Tensor], targets: dict[str, Any]) -> dict[str, Tensor]:
        terms = super().get_loss(out_dict, targets)
        means = {name: terms[name] * targets["semantic_ratio"] for name in self.weight_dict}
        return {"miou_semantic_seg": terms["miou_semantic_seg"], **means}


class GroundingLoss(nn.Module):
    """Boxes, scores, presence, instance masks and the semantic map, against matched targets.

    It takes the model's matcher and number of queries, by which the classification term is averaged, no parameters.
    """

    def __init__(self, model: host.Sam3Image, options: LossOptions | None = None) -> None:
        super().__init__()
        self.weights = w = options or LossOptions()
        self.alignment = AlignmentLoss(w)
        self.wrapper = _Sam3Loss(
            matcher=model.matcher,
            o2m_weight=w.one_to_many,
            o2m_matcher=host.BinaryOneToManyMatcher(alpha=0.3, threshold=0.4, topk=4),
            use_o2m_matcher_on_o2m_aux=False,
            loss_fns_find=[
                host.loss_fns.Boxes(weight_dict={"loss_bbox": w.box, "loss_giou": w.giou}),
                host.loss_fns.IABCEMdetr(
                    weight_dict={"loss_ce": w.classification, "presence_loss": w.presence},
                    weak_loss=False,
                    pos_weight=10.0,
                    alpha=0.25,
                    gamma=2,
                    use_presence=True,
                    pad_n_queries=model.transformer.decoder.num_queries,
                ),
                host.loss_fns.Masks({"loss_mask": w.mask, "loss_dice": w.dice}, focal_alpha=0.25, focal_gamma=2.0),
            ],
            loss_fn_semantic_seg=_SemanticLoss(
                weight_dict={"loss_semantic_seg": w.semantic, "loss_semantic_dice": w.semantic_dice},
                presence_head=True,
                presence_loss=False,
                focal=True,
                focal_alpha=0.6,
                focal_gamma=2.0,
                downsample=False,
            ),
            scale_by_find_batch_size=True,
        )

    def forward(
        self, model: host.Sam3Image, batch: host.BatchedDatapoint, output: host.SAM3Output, step: Counts | None = None
    ) -> dict[str, Tensor]:
        """Loss terms of one batch, from the output `model(batch)` of a model in training mode.

        `step` counts all the batches that one optimizer step sees, in all processes; None: this batch alone. Every term
        is then this batch's part of the step's: their sum is what one batch of all the images would have. Not so for
        the contrastive `alignment_loss`, whose negatives are those of the batch, and for SAM 3's measures of quality
        (`ce_f1`, `miou_semantic_seg`), which are means weighted by the prompts.

        Returns every term by SAM 3's name for it, unweighted (but those of the one-to-many branch have its weight), and
        under "loss" their weighted sum times √(number of prompts), which is SAM 3's, plus the weighted terms of
        `alignment`. "loss_matched", the weighted sum of the last layer's one-to-one terms of SAM 3, ranks models. The
        whole sum does not: better boxes give the one-to-many branch more matches, and so more loss.
        """
        step = step or count_targets([batch])
        counted = torch.cat([target.num_boxes for target in batch.find_targets])
        fraction = len(counted) / step.prompts
        # SAM 3 averages over this batch's prompts, and sums up all terms before they can be told apart: with the
        # fraction in the divisors of the other terms as well, one factor is right for all; this batch's own counts stay
        # on the device, which nothing waits for
        boxes = torch.full((), max(1.0, step.boxes) * fraction, device=model.device)
        segmented = torch.cat([_segmented(target) for target in batch.find_targets]).sum()
        ratio = segmented / (max(1.0, step.segmented) * fraction)
        divisors = {"boxes_to_average_over": boxes, "semantic_ratio": ratio}
        convert = getattr(model, "module", model).back_convert
        targets = [convert(target) | divisors for target in batch.find_targets]
        # TorchScript rewrites SAM 3's box losses after two calls, and their gradients then round in another way
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            terms = {name: term * fraction for name, term in self.wrapper(output, targets).items()}
        terms[TOTAL] = terms.pop(host.loss_fns.CORE_LOSS_KEY) / math.sqrt(fraction)
        matched = [getattr(self.weights, weight) * terms[term].detach() for term, weight in _WEIGHT_OF.items()]
        terms[MATCHED] = torch.stack(matched).sum()
        present = (counted > 0).sum() / max(1.0, step.present)
        for name, term in self.alignment(model, batch, output[-1]).items():
            terms[name] = term * present
            terms[TOTAL] = terms[TOTAL] + self.alignment.weights[name] * terms[name]
        return terms
