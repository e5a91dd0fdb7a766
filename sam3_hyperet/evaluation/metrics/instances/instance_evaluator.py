"""Box and mask AP and cgF1 of one model, as an `Evaluator`: each picture is matched at once, no mask is kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sam3_hyperet.evaluation.metrics.evaluator import Headline, Record
from sam3_hyperet.evaluation.metrics.instances.coco_summary import check_groups
from sam3_hyperet.evaluation.metrics.instances.instance_matches import MAX_DETECTIONS
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import instance_headline, instance_metrics
from sam3_hyperet.evaluation.metrics.instances.instance_records import PictureDetections
from sam3_hyperet.evaluation.scoring.coco import GroundTruth
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.masks import encode_masks


class InstanceEvaluator:
    """Prompts of categories, answered by instances, scored as COCO does (the protocol of `CocoAP`) and as SAM 3 does.

    The keys are those of `instance_metrics` and `instance_headline`.

    Args:
        image_ids: of the pictures, by their position in the split.
        category_of: category id by number of the prompt, several of which may ask for one; other prompts do not count.
        top: detections kept of each prompt, best first.
        mask_threshold: probability from which a pixel belongs to a mask.
        groups: category ids by name.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        image_ids: Sequence[int],
        category_of: Mapping[int, int],
        top: int = MAX_DETECTIONS,
        mask_threshold: float = 0.5,
        groups: Mapping[str, Collection[int]] | None = None,
    ) -> None:
        self.ground_truth = ground_truth
        self.image_ids, self.top, self.mask_threshold = list(image_ids), top, mask_threshold
        self.groups = {str(name): list(ids) for name, ids in (groups or {}).items()}
        check_groups({**self.groups, "prompts": list(category_of.values())}, ground_truth)
        columns = sorted(ground_truth.categories)
        self._column_of = {k: columns.index(category_id) for k, category_id in category_of.items()}

    def start(self, i: int) -> None:
        image_id = self.image_ids[i]
        self._picture = PictureDetections(self.ground_truth, image_id)
        self._height, self._width = self.ground_truth.sizes[image_id]

    def add(self, k: int, answer: PromptPrediction) -> None:
        if k not in self._column_of:
            return
        column, best = self._column_of[k], answer.top(self.top)
        masks = best.masks(self._height, self._width, self.mask_threshold)
        corners: Tensor = best.boxes.clamp(0, 1) * best.boxes.new_tensor([self._width, self._height] * 2)
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).double().cpu().numpy()
        is_shown = column in self._picture.truths
        self._picture.add(
            np.full(len(boxes), column),
            best.scores.double().cpu().numpy(),
            areas={"bbox": boxes[:, 2] * boxes[:, 3], "segm": np.count_nonzero(masks, axis=(1, 2)).astype(np.float64)},
            shapes={"bbox": boxes.tolist(), "segm": encode_masks(masks) if is_shown else [None] * len(boxes)},
        )

    def finish(self) -> dict[str, np.ndarray]:
        return self._picture.record()

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        return instance_metrics(records, self.ground_truth.categories, self.groups)

    def headline(self, records: Sequence[Record]) -> Headline:
        return instance_headline(records, self.ground_truth.categories, self.groups)
