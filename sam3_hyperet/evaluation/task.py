"""What is asked of a split, and who listens: one vocabulary for instances and label maps, and a model's evaluators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import numpy as np
from torch import nn

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.hierarchy import Hierarchy
from sam3_hyperet.data.sources import Split
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator
from sam3_hyperet.evaluation.metrics.examples import ExampleEvaluator
from sam3_hyperet.evaluation.metrics.hierarchy import GranularityEvaluator
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.metrics.presence import PresenceEvaluator
from sam3_hyperet.evaluation.metrics.radius import RadiusEvaluator
from sam3_hyperet.evaluation.metrics.semantic.label_map_evaluator import LabelMapEvaluator
from sam3_hyperet.evaluation.metrics.uncertainty import UncertaintyEvaluator
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.modeling.config import adapter_config


class Suite:
    """The prompts of a split, each once, and the evaluators of a model on it.

    Args:
        texts: category id of the label maps -> the texts that ask for it; None for its name.
        hierarchy: the concept tree of the categories; its parents are asked for in addition.
        shown: (position, category id) pairs whose detections are kept for the report.
        shown_maps: positions whose label map is kept.

    Raises:
        ConfigError: no COCO file and no label map.
        DataError: instances and label maps that are not of the same pictures.
    """

    def __init__(
        self,
        split: Split,
        protocol: Protocol,
        positions: Sequence[int],
        *,
        texts: Mapping[int, Sequence[str]] | None = None,
        hierarchy: Hierarchy | None = None,
        shown: Collection[tuple[int, int]] = (),
        shown_maps: Collection[int] = (),
    ) -> None:
        self.split, self.protocol, self.positions = split, protocol, tuple(positions)
        self.shown, self.shown_maps = tuple(shown), tuple(shown_maps)
        names = [category.name for category in split.images.categories] if split.coco_file else []
        classes = {
            text: label
            for label, category in enumerate(split.labels.categories if split.labels else ())
            for text in (texts or {}).get(category.id, (category.name,))
        }
        if not names and not classes:
            raise ConfigError("a split without instances and without label maps cannot be evaluated")
        if split.coco_file and split.labels:
            _check_same_pictures(split.images, split.labels, self.positions)
        parents = hierarchy.prompts([*names, *classes]) if hierarchy else ()
        self.hierarchy = hierarchy
        self.vocabulary = tuple(dict.fromkeys([*names, *classes, *parents]))
        ids = {category.name: category.id for category in split.images.categories}
        self.category_of = {k: ids[text] for k, text in enumerate(self.vocabulary) if names and text in ids}
        self.class_of = {k: classes[text] for k, text in enumerate(self.vocabulary) if text in classes}

    def evaluators(self, model: nn.Module) -> dict[str, Evaluator]:
        """Evaluators for one model, by the name that their arrays have in a record."""
        split, protocol, chosen = self.split, self.protocol, dict[str, Evaluator]()
        if self.category_of:
            chosen["instances"] = InstanceEvaluator(
                split.images,
                self.category_of,
                protocol.top,
                protocol.mask_threshold,
                self.groups,
            )
            chosen["presence"] = PresenceEvaluator(
                self.category_of, self._present, self.groups, protocol.presence_threshold
            )
            if protocol.granularity:
                chosen["uncertainty"] = UncertaintyEvaluator(
                    model, split.images, self.category_of, mask=protocol.mask_threshold
                )
            chosen["examples"] = ExampleEvaluator(self.category_of, self._size, protocol.mask_threshold)
        if split.labels:
            labels = split.labels
            chosen["label_maps"] = LabelMapEvaluator(
                [category.name for category in labels.categories],
                self.class_of,
                lambda i: vocabulary_labels(labels, i),
                protocol.fusion_thresholds,
                protocol.fusion,
                self.shown_maps,
            )
        if self.hierarchy:
            chosen["hierarchy"] = GranularityEvaluator(
                split.images, self.vocabulary, self.hierarchy, mask=protocol.mask_threshold
            )
        if adapter_config(model) is not None:
            chosen["radius"] = RadiusEvaluator(model)
        return chosen

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Category ids that are scored together: those of each granularity where there are several, and the split's."""
        groups: dict[str, list[int]] = defaultdict(list)
        for category in self.split.images.categories:
            groups[category.granularity].append(category.id)
        several = dict(groups) if len(groups) > 1 else {}
        return several | {name: list(ids) for name, ids in self.split.groups.items()}

    def _present(self, i: int) -> tuple[set[int], set[int]]:
        """Categories that an image shows as instances, and those of which that is not known."""
        images = self.split.images
        instances = images.instances(i)
        crowds = {one.category_id for one in instances if one.crowd}
        return (
            {one.category_id for one in instances if not one.crowd},
            crowds | images.unlabelled(i) | images.unannotated,
        )

    def _size(self, i: int) -> tuple[int, int]:
        record = self.split.images.image(i)
        return record.height, record.width


def vocabulary_labels(pictures: AnnotatedImages, i: int) -> np.ndarray:
    """(H, W) position of each pixel's class among the categories, -1 where it has none."""
    labels = pictures.label_map(i)
    if labels is None:
        raise ConfigError(f"picture {pictures.image(i).image_id} has no label map")
    table = np.full(max(category.id for category in pictures.categories) + 2, -1)
    for label, category in enumerate(pictures.categories):
        table[category.id] = label
    return np.asarray(table[labels])


def _check_same_pictures(images: AnnotatedImages, labels: AnnotatedImages, positions: Sequence[int]) -> None:
    """Each picture is shown to a model once, for its instances and its label map."""
    for i in positions:
        one = images.image(i).path
        other = labels.image(i).path if i < len(labels) else None
        if one != other:
            raise DataError(f"picture {i}: its instances are those of {one}, its label map is that of {other}")
