"""The prompts of a split, one vocabulary for instances and label maps, and the evaluators of a model on it."""

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from operator import attrgetter

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import KEPT, VISUAL
from sam3_hyperet.data.answers import AnsweredImages
from sam3_hyperet.data.hierarchy import Hierarchy, hierarchy_of
from sam3_hyperet.data.prompts import prompt_texts
from sam3_hyperet.data.sources import Split
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.cascade import CASCADE, CascadeEvaluator
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Prompt
from sam3_hyperet.evaluation.metrics.examples import ExampleEvaluator
from sam3_hyperet.evaluation.metrics.hierarchy import GranularityEvaluator, concepts
from sam3_hyperet.evaluation.metrics.instances.instance_evaluator import InstanceEvaluator
from sam3_hyperet.evaluation.metrics.kept import KeptEvaluator
from sam3_hyperet.evaluation.metrics.level_radius import LevelRadiusEvaluator
from sam3_hyperet.evaluation.metrics.presence import PresenceEvaluator
from sam3_hyperet.evaluation.metrics.radius import RadiusEvaluator
from sam3_hyperet.evaluation.metrics.semantic.label_map_evaluator import LabelMapEvaluator
from sam3_hyperet.evaluation.metrics.semantic.oracle_objects import ORACLE, OracleObjectEvaluator
from sam3_hyperet.evaluation.metrics.uncertainty import UncertaintyEvaluator
from sam3_hyperet.evaluation.protocol import Protocol, evenly_spread
from sam3_hyperet.inference.exemplars import Exemplars
from sam3_hyperet.modeling.radius_sums import RadiusSums

INSTANCES, LABEL_MAPS = "instances", "label_maps"  # the evaluators of AP and of mIoU
MERGED = "supercategories"  # that of the mIoU of label maps merged to supercategories
_SHOWN_PER_IMAGE = 2
_LABEL_MAPS = 4


class EvalTask:
    """The prompts of a split, each text once, and the evaluators of a model on it.

    positions: the images that are scored.
    texts: category id of the label maps -> the texts that name it; None for its name.
    hierarchy: the concept tree of the categories, whose parents are prompts in addition.
    kept: the images as the base's answers to names annotate them, once it was asked; None where it is not asked.
    shown: (position, category id) pairs whose detections are kept for the report, `shown_maps` positions whose label
        map is.
    Of a protocol that asks for present concepts alone, instances are scored, and neither label maps nor the tree, for
    both compare a concept with those that are not asked for; nor what is kept, of which no labels say what is present.
    Raises ConfigError without instances and label maps, DataError where the two differ in their images.
    """

    def __init__(
        self,
        split: Split,
        protocol: Protocol,
        positions: Sequence[int],
        *,
        texts: Mapping[int, Sequence[str]] | None = None,
        hierarchy: Hierarchy | None = None,
        kept: AnsweredImages | None = None,
        shown: Collection[tuple[int, int]] = (),
        shown_maps: Collection[int] = (),
    ) -> None:
        if protocol.asks_present:
            if not split.has_instances:
                name = f"{protocol.prompted_by} is of single instances, and {split.images.name} has label maps alone"
                raise ConfigError(f"protocol: {name}; expected protocol.exemplars=0 and protocol.present_only=false")
            split, hierarchy, kept = dataclasses.replace(split, labels=None, merged=None), None, None
            shown_maps = ()
        self.split, self.protocol, self.positions = split, protocol, tuple(positions)
        self.hierarchy, self.kept, self.shown, self.shown_maps = hierarchy, kept, tuple(shown), tuple(shown_maps)
        asked = [category for category in split.images.categories if category.id != split.images.background]
        ids = {category.name: category.id for category in asked} if split.has_instances else {}
        labels = split.labels
        classes = {
            text: index
            for index, category in enumerate(labels.categories if labels else ())
            if labels and category.id != labels.background
            for text in (texts or {}).get(category.id, (category.name,))
        }
        merged = {category.name: n for n, category in enumerate(split.merged.categories)} if split.merged else {}
        of_kept = {category.name: category.id for category in kept.categories} if kept else {}
        if not ids and not classes:
            raise ConfigError("a split without instances and without label maps cannot be evaluated")
        if split.has_instances and labels:
            for i in self.positions:  # a model gets each image once, for its instances and its label map
                one, other = split.images.image(i).path, labels.image(i).path if i < len(labels) else None
                if one != other:
                    raise DataError(f"image {i}: its instances are those of {one}, its label map is that of {other}")
        parents = hierarchy.prompts([*ids, *classes, *merged]) if hierarchy else ()
        in_tree = set(concepts(hierarchy)) if hierarchy else set()
        self.prompts = tuple(
            Prompt(text, ids.get(text), classes.get(text), merged.get(text), of_kept.get(text), text in in_tree)
            for text in dict.fromkeys([*ids, *classes, *merged, *parents, *of_kept])
        )

    def on(self, device: str) -> "EvalTask":
        """The task under the protocol as it is on a type of device."""
        task = copy.copy(self)
        task.protocol = self.protocol.on(device)
        return task

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The texts of the prompts."""
        return tuple(prompt.text for prompt in self.prompts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts that the model reads: those of the prompts, or the one of boxes alone."""
        return self.vocabulary if self.protocol.exemplar_text else (VISUAL,)

    def asked(self, i: int) -> Sequence[int]:
        """Positions of the prompts that an image is asked: not of those for which nothing in it is known."""
        if self.protocol.asks_present:
            present = self.split.images.present(i) - self.split.images.unlabelled(i)
            return [k for k, prompt in enumerate(self.prompts) if prompt.category_id in present]
        unknown = self.split.images.unlabelled(i) if self.category_ids else frozenset()
        unclear = self.kept.unlabelled(i) if self.kept else frozenset()
        if not (unknown or unclear):
            return range(len(self.prompts))
        return [k for k, prompt in enumerate(self.prompts) if _is_open(prompt, unknown, unclear)]

    def given(self, i: int) -> tuple[Sequence[int], Sequence[Exemplars | None] | None]:
        """What a model gets of each prompt that an image is asked: the position in `texts`, and its exemplars, if any.

        The instances are drawn by seed, image and category alone, those of fewer exemplars among those of more.
        """
        asked, count = self.asked(i), self.protocol.exemplars
        if not count:
            return asked, None
        image, exemplars = self.split.images.image(i), []
        for k in asked:
            category_id = self.prompts[k].category_id
            mine = [one for one in self.split.images.instances(i) if one.category_id == category_id and not one.crowd]
            ids = (image.image_id, category_id or 0)  # of any sign, which seeds are not
            seed = (self.protocol.exemplar_seed, *(one % 2**63 for one in ids))
            drawn = np.random.default_rng(seed).permutation(len(mine))[:count]
            boxes = [masks.box(mine[n].rle) for n in drawn]
            exemplars.append(Exemplars.in_pixels(boxes, (image.width, image.height)))
        return asked if self.protocol.exemplar_text else [0] * len(asked), exemplars

    @cached_property
    def category_ids(self) -> frozenset[int]:
        """Of the categories that are scored as instances."""
        return frozenset(prompt.category_id for prompt in self.prompts if prompt.category_id is not None)

    def evaluators(self, model: host.Sam3Image | None, probe: RadiusSums | None = None) -> dict[str, Evaluator]:
        """Evaluators for one model, by the name that their arrays have in a record; of radii with a probe of it.

        The model may be None where the protocol measures no `granularity`.
        """
        split, protocol, chosen = self.split, self.protocol, dict[str, Evaluator]()
        if self.category_ids:
            chosen[INSTANCES] = InstanceEvaluator(split.images, self.category_ids, self.groups, protocol)
            chosen["presence"] = PresenceEvaluator(self.category_ids, self._present, self.groups, protocol)
            if protocol.granularity and protocol.tiling.is_whole and model is not None:
                chosen["uncertainty"] = UncertaintyEvaluator(model, split.images, protocol)
            chosen["examples"] = ExampleEvaluator(split.images)
        if self.kept:
            kept_ids = [category.id for category in self.kept.categories]
            chosen[KEPT] = KeptEvaluator(InstanceEvaluator(self.kept, kept_ids, {}, protocol))
            chosen[f"{KEPT}_presence"] = KeptEvaluator(PresenceEvaluator(kept_ids, self._shown_by_base, {}, protocol))
        if split.labels:
            chosen[LABEL_MAPS] = LabelMapEvaluator(split.labels, protocol, self.shown_maps, self._class_groups)
            if any(category.whole for category in split.labels.categories):
                chosen[ORACLE] = OracleObjectEvaluator(split.labels, protocol, self._class_groups)
        if split.merged:
            of_prompt = attrgetter("merged_index")
            merged = LabelMapEvaluator(
                split.merged, protocol, (), self._class_groups, level=MERGED, class_index=of_prompt
            )
            chosen[MERGED] = merged
        if self.hierarchy:
            chosen["hierarchy"] = GranularityEvaluator(split.images, self.prompts, self.hierarchy)
            levels = LevelRadiusEvaluator(split.images, self.hierarchy)
            # spared prompts have no features, and are no random ones; tiles have features of their own
            if levels.edges and protocol.recall == 1 and protocol.tiling.is_whole:
                chosen["levels"] = levels
        if protocol.recall < 1:
            chosen[CASCADE] = CascadeEvaluator(self.vocabulary)
        if probe:
            chosen["radius"] = RadiusEvaluator(probe)
        return chosen

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Category ids that are scored together: those of each granularity where there are several, and the split's."""
        groups: dict[str, list[int]] = defaultdict(list)
        for category in self.split.images.categories:
            groups[category.granularity].append(category.id)
        several = dict(groups) if len(groups) > 1 else {}
        return several | {name: list(ids) for name, ids in self.split.groups.items()}

    @cached_property
    def _class_groups(self) -> dict[str, list[str]]:
        """The split's own groups by category names, for ids of label maps may be others."""
        names = {category.id: category.name for category in self.split.images.categories}
        return {name: [names[i] for i in ids] for name, ids in self.split.groups.items()}

    def _present(self, i: int) -> tuple[set[int], set[int]]:
        """Categories that an image shows as instances, and those of which that is not known."""
        images = self.split.images
        instances = images.instances(i)
        present = {one.category_id for one in instances if not one.crowd}
        if self.protocol.asks_present:
            return present, set(self.category_ids)
        crowds = {one.category_id for one in instances if one.crowd}
        return present, crowds | images.unlabelled(i) | images.never_absent

    def _shown_by_base(self, i: int) -> tuple[frozenset[int], frozenset[int]]:
        """The same of the base's answers."""
        assert self.kept is not None
        return self.kept.present(i), self.kept.unlabelled(i)


def _is_open(prompt: Prompt, unknown: Collection[int], unclear: Collection[int]) -> bool:
    """Whether a prompt stands for anything other than categories of which nothing is known, or nothing clear."""
    if prompt.concept or prompt.class_index is not None or prompt.merged_index is not None:
        return True
    is_labelled = prompt.category_id is not None and prompt.category_id not in unknown
    return is_labelled or (prompt.kept_id is not None and prompt.kept_id not in unclear)


def check_tiles(split: Split, protocol: Protocol) -> None:
    """Raise a DataError for the first image with too few pixels for the protocol's tiles."""
    if protocol.tiling.columns is not None and not protocol.tiling.is_whole:
        for i in evenly_spread(range(len(split.images)), protocol.limit):
            image = split.images.image(i)
            protocol.tiling.grid(image.width, image.height, name=image.path)


def open_task(split: Split, protocol: Protocol, kept: AnsweredImages | None = None) -> EvalTask:
    """The task of a split under a protocol; for the report, some of the images keep their predictions."""
    chosen = evenly_spread(range(len(split.images)), protocol.limit)
    shown, maps = shown_examples(split, chosen, protocol.examples)
    texts = prompt_texts(split.labels.categories) if protocol.synonyms and split.labels else None
    hierarchy = hierarchy_of(split.images.categories) if protocol.granularity else None
    return EvalTask(split, protocol, chosen, texts=texts, hierarchy=hierarchy, kept=kept, shown=shown, shown_maps=maps)


def shown_examples(split: Split, scored: Sequence[int], count: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Examples from `count` of the scored images, evenly spread: (position, category id) of a present concept for each
    granularity, and positions of label maps."""
    if not count:
        return [], []
    chosen = evenly_spread(scored, count)
    pairs: list[tuple[int, int]] = []
    granularity = {category.id: category.granularity for category in split.images.categories}
    for turn, i in enumerate(chosen if split.has_instances else ()):
        there = sorted({one.category_id for one in split.images.instances(i) if not one.crowd})
        levels = sorted({granularity[c] for c in there})
        for level in levels if len(levels) > 1 else levels * _SHOWN_PER_IMAGE:
            if left := [c for c in there if granularity[c] == level and (i, c) not in pairs]:
                pairs.append((i, left[turn % len(left)]))
    return pairs, (chosen[:_LABEL_MAPS] if split.labels else [])
