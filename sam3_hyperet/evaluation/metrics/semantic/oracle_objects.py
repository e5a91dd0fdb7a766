"""mIoU of parts where it is known which object a pixel belongs to: OV-PARTS' protocol with oracle objects.

A pixel whose label is a part of an object goes to the part *of that object* with the largest value, whatever the parts
of other objects have there, and without thresholds of presence and of masks. An instance enters from the protocol's
`score_threshold`; where no part of the object has one, `instance` leaves the pixel unassigned. Pixels without a label
do not count, so that the object's outline beyond its labelled parts does not matter.
"""

from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.evaluation.metrics.evaluator import Prompt
from sam3_hyperet.evaluation.metrics.semantic.label_map_evaluator import LabelMapEvaluator, class_values
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.inference.prediction import Encoded, PromptDetections, PromptPrediction

ORACLE = "oracle_object"
_NO_OBJECT = -1


class OracleObjectEvaluator(LabelMapEvaluator):
    """mIoU of parts inside their own objects: the keys of `LabelMapEvaluator` below `oracle_object`.

    images: with parts as categories and the label maps. groups: category names by name.
    """

    def __init__(self, images: AnnotatedImages, protocol: Protocol, groups: Mapping[str, Collection[str]]) -> None:
        below = {f"{ORACLE}/{name}": members for name, members in groups.items()}
        super().__init__(images, protocol, (), below, level=ORACLE)
        numbers = {whole: n for n, whole in enumerate(dict.fromkeys(c.whole for c in images.categories if c.whole))}
        owners = [numbers.get(category.whole, _NO_OBJECT) for category in images.categories]
        self._owners = np.array([*owners, _NO_OBJECT])  # the last is of pixels without a label, which are -1

    def start(self, position: int, encoded: Encoded) -> None:
        super().start(position, encoded)
        owners = self._owners[self._labels]
        self._owner, self._shown_objects = torch.from_numpy(owners), frozenset(np.unique(owners).tolist())

    def add(self, prompt: Prompt, detections: PromptDetections) -> None:
        index = prompt.class_index
        if index is None or (owner := int(self._owners[index])) not in self._shown_objects or owner == _NO_OBJECT:
            return
        for name, value in detections.prediction.stitched(self._values, *self._labels.shape).items():
            self._owner = self._owner.to(value.device)
            self._maps[name].add(index, value.masked_fill(self._owner != owner, -torch.inf))

    def _values(self, prediction: PromptPrediction, height: int, width: int) -> dict[str, Tensor]:
        kept = prediction.above(self._protocol.score_threshold)
        masks, semantic = kept.each_mask_probabilities(height, width), kept.semantic_probabilities(height, width)
        return class_values(kept.presence, kept.query_scores, masks, semantic, mask_threshold=0.0)
