"""Does a model that is asked for a concept answer for what is below it in a tree, and for nothing beside it?

The mask of a prompt is the union of its detections' masks (those whose score, presence included, is at least a
threshold), or its semantic map. With P the mask of a parent's prompt, C the union of its kinds' masks and G the ground
truth of them all, on each picture that shows one of the kinds (one beside the parent, if that is a class itself):

- `consistency`: IoU(P, C). Where both are empty there is nothing to compare: the pair is left out, and `unanswered` is
  the share of such pairs. Where only one is empty it is 0.
- `parent_recall`: |P ∩ G| / |G|.
- `containment`, of parts: the share of a part's mask that lies in the masks of its wholes, where the picture shows the
  part and its mask is not empty.
- `sibling_confusion`: the share of annotated regions that a sibling's prompt claims: one of its masks, or their union,
  has IoU ≥ 1/2 with the region, and no annotation of the sibling has. Of regions whose class has siblings.
- `cousin_confusion`, `stranger_confusion`: the same for cousins, and for all others that are not above or below.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.hierarchy import Hierarchy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics import regions
from sam3_hyperet.evaluation.metrics.evaluator import Headline, Record
from sam3_hyperet.evaluation.metrics.hierarchy_counts import HierarchyCounts
from sam3_hyperet.inference.prediction import PromptPrediction

CLAIM_IOU = 0.5


class GranularityEvaluator:
    """Consistency and confusion within a concept tree.

    Args:
        pictures: where the annotated regions are.
        vocabulary: what is asked: the names of the categories and what `hierarchy.prompts` adds. Other prompts, such as
            synonyms, are not looked at.
        hierarchy: the tree.
        score: from which a detection counts, presence included; with `semantic`, the presence from which a map does.
        mask: probability from which a pixel belongs to a mask.
        semantic: take each prompt's semantic map instead of its detections.

    Raises:
        ConfigError: a name of the tree that the vocabulary lacks.
    """

    def __init__(
        self,
        pictures: AnnotatedImages,
        vocabulary: Sequence[str],
        hierarchy: Hierarchy,
        *,
        score: float = 0.5,
        mask: float = 0.5,
        semantic: bool = False,
    ) -> None:
        names = dict.fromkeys((*hierarchy.kinds, *hierarchy.parts, *hierarchy.children))
        if missing := [name for name in names if name not in vocabulary]:
            raise ConfigError(f"hierarchy: {missing[0]!r} is not asked for; expected it in the vocabulary")
        self.counts = HierarchyCounts(hierarchy)
        self._pictures, self._hierarchy = pictures, hierarchy
        self._score, self._mask, self._semantic = score, mask, semantic
        self._name = {vocabulary.index(name): name for name in names}
        self._of_category = {category.id: category.name for category in pictures.categories}

    def start(self, i: int) -> None:
        self._size = self._pictures.image(i)
        self._claims: dict[str, list[masks.Rle]] = {}
        self._annotated: dict[str, list[tuple[masks.Rle, bool]]] = defaultdict(list)
        for region in self._pictures.instances(i):
            self._annotated[self._of_category[region.category_id]].append((region.rle, region.crowd))

    def add(self, k: int, answer: PromptPrediction) -> None:
        if k not in self._name:
            return
        if not self._semantic:
            found = regions.detection_masks(regions.confident(answer, self._score), self._size, self._mask)
        elif answer.presence >= self._score:
            found = [regions.semantic_mask(answer, self._size, self._mask)]
        else:
            found = []
        self._claims[self._name[k]] = found

    def finish(self) -> dict[str, np.ndarray]:
        """`kinds` (m, 5): the number of a parent and, in pixels, |P ∩ C|, |P ∪ C|, |P ∩ G| and |G|. `parts` (n, 3): the
        number of a child and the pixels of its mask in its wholes' and in all. `regions` (r,): the number of each
        region's class among the children. `claims` (c, 2): a region and the number of a child that claims it."""
        self._masks = {name: self._union(found) for name, found in self._claims.items()}
        shown, claims = self._confusion()
        return {
            "kinds": np.array(self._consistency(), np.int64).reshape(-1, 5),
            "parts": np.array(self._containment(), np.int64).reshape(-1, 3),
            "regions": np.array(shown, np.int32),
            "claims": np.array(claims, np.int32).reshape(-1, 2),
        }

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        return self.counts.metrics(records)

    def headline(self, records: Sequence[Record]) -> Headline:
        return self.counts.headline(records)

    def _consistency(self) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = []
        for number, (parent, children) in enumerate(self._hierarchy.kinds.items()):
            if not any(self._annotated.get(child) for child in children if child != parent):
                continue
            asked, below = self._masks[parent], self._together(children)
            truth = self._union([rle for name in {parent, *children} for rle, _ in self._annotated.get(name, ())])
            both = masks.intersection_area(asked, below)
            either = masks.area(asked) + masks.area(below) - both
            found = masks.intersection_area(asked, truth)
            rows.append((number, both, either, found, masks.area(truth)))
        return rows

    def _containment(self) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = []
        wholes: dict[str, list[str]] = defaultdict(list)
        for whole, parts in self._hierarchy.parts.items():
            for part in parts:
                wholes[part].append(whole)
        for part, owners in wholes.items():
            area = masks.area(self._masks[part])
            if area and self._annotated.get(part):
                within = masks.intersection_area(self._masks[part], self._together(owners))
                rows.append((self.counts.children.index(part), within, area))
        return rows

    def _confusion(self) -> tuple[list[int], list[tuple[int, int]]]:
        children = self.counts.children
        shown = [(name, rle) for name in children for rle, crowd in self._annotated.get(name, ()) if not crowd]
        areas = [rle for _, rle in shown]
        claims = []
        for number, name in enumerate(children):
            found = self._claims[name]
            claimed = masks.iou([*found, self._masks[name]], areas).max(axis=0, initial=0) >= CLAIM_IOU
            own = self._annotated.get(name, ())
            there = masks.iou(areas, [rle for rle, _ in own], [crowd for _, crowd in own])
            absent = there.max(axis=1, initial=0) < CLAIM_IOU
            claims += [(r, number) for r, (truth, _) in enumerate(shown) if claimed[r] and (absent[r] or truth == name)]
        return [children.index(name) for name, _ in shown], claims

    def _together(self, names: Sequence[str]) -> masks.Rle:
        return self._union([self._masks[name] for name in names])

    def _union(self, regions: Sequence[masks.Rle]) -> masks.Rle:
        return masks.union(regions, self._size.height, self._size.width)
