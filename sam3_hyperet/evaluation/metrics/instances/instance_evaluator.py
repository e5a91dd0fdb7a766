"""Box and mask AP and cgF1 of one model, as an `Evaluator`: each image is matched at once, no mask is kept."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Headline, Prompt, Record
from sam3_hyperet.evaluation.metrics.instances import instance_metrics as metrics
from sam3_hyperet.evaluation.metrics.instances.instance_matches import Truth, unannotated_rest
from sam3_hyperet.evaluation.metrics.instances.instance_records import ImageDetections
from sam3_hyperet.evaluation.metrics.key import of_present
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage


class InstanceEvaluator(Evaluator):
    """Detections of categories, scored as COCO does and as SAM 3 does, by the keys of `instance_metrics`.

    Boxes are SAM 3's own, not clamped to the image. Where all annotations of a category in an image were dropped, its
    detections there do not count (docs/evaluation.md, "Which annotations count").
    Where the protocol asks for present concepts alone there is no cgF1, which is of absent ones as well.
    category_ids: of the categories that prompts name; annotations of others do not count. groups: category ids by name.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        category_ids: Collection[int],
        groups: Mapping[str, Collection[int]],
        protocol: Protocol,
    ) -> None:
        self.images, self._max_dets, self._asks_present = images, protocol.max_dets, protocol.asks_present
        self.groups = {str(name): list(ids) for name, ids in groups.items()}
        metrics.check_groups({"prompts": category_ids}, [category.id for category in images.categories], images.name)
        self.categories = {category.id: category.name for category in images.categories if category.id in category_ids}
        self._parts = {c.name: c.part for c in images.categories if c.part and c.id in self.categories}
        metrics.check_groups(self.groups, self.categories, images.name)
        self._columns = metrics.category_columns(self.categories)

    def start(self, position: int, encoded: EncodedImage) -> None:
        image = self.images.image(position)
        truths = [
            Truth(one.category_id, {"bbox": list(one.box), "segm": one.rle}, one.area, one.crowd)
            for one in self.images.instances(position)
            if one.category_id in self._columns
        ]
        self._unlabelled = self.images.unlabelled(position)
        self._partly = (self.images.not_exhaustive(position) - self._unlabelled) & self._columns.keys()
        truths += [unannotated_rest(one, image.height, image.width) for one in self._partly]
        self._image = ImageDetections(image.image_id, self._columns, truths)

    def add(self, prompt: Prompt, detections: Detections) -> None:
        if prompt.category_id is None or prompt.category_id in self._unlabelled:
            return
        column = self._columns[prompt.category_id]
        scores = detections.scores[: max(self._max_dets, detections.confident)]
        count = len(scores)
        corners = detections.boxes[:count]
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        is_shown = column in self._image.truths
        shapes = {"bbox": boxes.tolist(), "segm": detections.rles(count) if is_shown else [None] * count}
        areas = {"bbox": boxes[:, 2] * boxes[:, 3], "segm": detections.areas(count)}  # of the run lengths, if there are
        self._image.add(np.full(count, column), scores, areas, shapes, self._max_dets)

    def finish(self) -> dict[str, np.ndarray]:
        """The record of `ImageDetections`, and `unknown` (C,), which categories are no pairs of cgF1 in this image.

        The image says nothing of them, or does not have all of their instances: SAM 3 leaves such pairs out as well.
        """
        unknown = np.isin(list(self._columns), list(self._unlabelled | self._partly))
        return self._image.record() | {"unknown": unknown}

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        found = metrics.instance_metrics(records, self.categories, self.groups)
        found |= metrics.object_part_ap(found, self._parts)
        return of_present(found) if self._asks_present else found

    def headline(self, records: Sequence[Record]) -> Headline:
        figures = metrics.instance_headline(records, self.categories, self.groups)
        return (lambda weights: of_present(figures(weights))) if self._asks_present else figures
