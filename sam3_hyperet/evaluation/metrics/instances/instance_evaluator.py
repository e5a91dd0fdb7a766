"""Box and mask AP and cgF1 of one model, as an `Evaluator`: each picture is matched at once, no mask is kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.evaluation.metrics.evaluator import Headline, Record
from sam3_hyperet.evaluation.metrics.instances.coco_summary import category_columns, check_groups
from sam3_hyperet.evaluation.metrics.instances.instance_matches import MAX_DETECTIONS, Truth
from sam3_hyperet.evaluation.metrics.instances.instance_metrics import instance_headline, instance_metrics
from sam3_hyperet.evaluation.metrics.instances.instance_records import ImageDetections
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.masks import encode_masks


class InstanceEvaluator:
    """Prompts of categories, answered by instances, scored as COCO does and as SAM 3 does.

    The keys are those of `instance_metrics` and `instance_headline`. Where all annotations of a category in an image
    were dropped, its detections there do not count (docs/evaluation.md, "Which annotations count").

    Args:
        images: the annotated images; annotations of categories that no prompt names do not count.
        category_of: category id by number of the prompt, several of which may ask for one; other prompts do not count.
        top: detections kept of each prompt, best first.
        mask_threshold: probability from which a pixel belongs to a mask.
        groups: category ids by name.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        category_of: Mapping[int, int],
        top: int = MAX_DETECTIONS,
        mask_threshold: float = 0.5,
        groups: Mapping[str, Collection[int]] | None = None,
    ) -> None:
        self.images, self.top, self.mask_threshold = images, top, mask_threshold
        self.groups = {str(name): list(ids) for name, ids in (groups or {}).items()}
        asked = set(category_of.values())
        check_groups({"prompts": asked}, [category.id for category in images.categories], images.name)
        self.categories = {category.id: category.name for category in images.categories if category.id in asked}
        check_groups(self.groups, self.categories, images.name)
        self._columns = category_columns(self.categories)
        self._column_of = {k: self._columns[category_id] for k, category_id in category_of.items()}

    def start(self, i: int) -> None:
        image = self.images.image(i)
        truths = [
            Truth(one.category_id, {"bbox": list(one.box), "segm": one.rle}, one.area, one.crowd)
            for one in self.images.instances(i)
            if one.category_id in self._columns
        ]
        for category_id in self.images.not_exhaustive(i) & self._columns.keys():  # what is not annotated is ignored
            everywhere = encode_masks(np.ones((1, image.height, image.width), bool))[0]
            shapes = {"bbox": [0.0, 0.0, float(image.width), float(image.height)], "segm": everywhere}
            truths.append(Truth(category_id, shapes, image.height * image.width, True))
        self._image = ImageDetections(image.image_id, self._columns, truths)
        self._height, self._width = image.height, image.width
        self._unlabelled = {self._columns[k] for k in self.images.unlabelled(i) if k in self._columns}

    def add(self, k: int, answer: PromptPrediction) -> None:
        if k not in self._column_of or self._column_of[k] in self._unlabelled:
            return
        column, best = self._column_of[k], answer.top(self.top)
        masks = best.masks(self._height, self._width, self.mask_threshold)
        corners: Tensor = best.boxes.clamp(0, 1) * best.boxes.new_tensor([self._width, self._height] * 2)
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1).double().cpu().numpy()
        is_shown = column in self._image.truths
        self._image.add(
            np.full(len(boxes), column),
            best.scores.double().cpu().numpy(),
            areas={"bbox": boxes[:, 2] * boxes[:, 3], "segm": np.count_nonzero(masks, axis=(1, 2)).astype(np.float64)},
            shapes={"bbox": boxes.tolist(), "segm": encode_masks(masks) if is_shown else [None] * len(boxes)},
        )

    def finish(self) -> dict[str, np.ndarray]:
        return self._image.record()

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        return instance_metrics(records, self.categories, self.groups)

    def headline(self, records: Sequence[Record]) -> Headline:
        return instance_headline(records, self.categories, self.groups)
