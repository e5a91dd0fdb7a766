"""mIoU of parts where it is known which object a pixel belongs to: OV-PARTS' protocol with oracle objects.

A pixel whose label is a part of an object goes to the part *of that object* with the largest value, whatever the parts
of other objects have there, and without thresholds of presence and of masks. An instance enters from the protocol's
`score_threshold`; where no part of the object has one, `instance` leaves the pixel unassigned. Pixels without a label
do not count, so that the object's outline beyond its labelled parts does not matter; nor do those of categories that
are no part of an object.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.evaluation.metrics.evaluator import Prompt, Record
from sam3_hyperet.evaluation.metrics.semantic.label_map_evaluator import LabelMapEvaluator, class_values
from sam3_hyperet.evaluation.metrics.semantic.semantic_miou import UNASSIGNED
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage

ORACLE = "oracle_object"
_NO_OBJECT = -1


class OracleObjectEvaluator(LabelMapEvaluator):
    """mIoU of parts inside their own objects: the keys of `LabelMapEvaluator` below `oracle_object`.

    images: with parts as categories and the label maps; other categories, such as objects without parts, are left out.
    groups: category names by name.
    """

    def __init__(self, images: AnnotatedImages, protocol: Protocol, groups: Mapping[str, Collection[str]]) -> None:
        below = {f"{ORACLE}/{name}": members for name, members in groups.items()}
        super().__init__(images, protocol, (), below, level=ORACLE)
        parts = np.array([bool(category.whole) for category in images.categories])
        objects = {whole: n for n, whole in enumerate(dict.fromkeys(c.whole for c in images.categories if c.whole))}
        self.names = tuple(category.name for category in images.categories if category.whole)
        self._groups = {name: members[parts] for name, members in self._groups.items()}
        self._nothing = UNASSIGNED  # also beside a background: it is no part
        # the last is of pixels without a label, which are -1
        self._part_of_class = np.append(np.where(parts, parts.cumsum() - 1, -1), -1)
        owners = [objects[category.whole] for category in images.categories if category.whole]
        self._owners = np.array([*owners, _NO_OBJECT])

    def start(self, position: int, encoded: EncodedImage) -> None:
        super().start(position, encoded)
        self._labels = self._part_of_class[self._labels]
        owners = self._owners[self._labels]
        self._owner, self._shown_objects = torch.from_numpy(owners), frozenset(np.unique(owners).tolist())

    def add(self, prompt: Prompt, detections: Detections) -> None:
        part = -1 if prompt.class_index is None else int(self._part_of_class[prompt.class_index])
        if part < 0 or (owner := int(self._owners[part])) not in self._shown_objects:
            return
        for name, value in detections.prediction.stitched(self._values, *self._labels.shape).items():
            self._owner = self._owner.to(value.device)
            self._maps[name].add(part, value.masked_fill(self._owner != owner, -torch.inf))

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        """The keys of `LabelMapEvaluator`; none where no image shows a part."""
        return super().evaluate(records) if any(len(one["fused/pixels"]) for one in records) else {}

    def _values(self, prediction: PromptPrediction, height: int, width: int) -> dict[str, Tensor]:
        kept = prediction.above(self._protocol.score_threshold)
        masks, semantic = kept.each_mask_probabilities(height, width), kept.semantic_probabilities(height, width)
        return class_values(kept.presence, kept.query_scores, masks, semantic, mask_threshold=0.0)
