"""Consistency within a concept tree: does a concept's mask cover what is below it, and nothing beside it?

The mask of a prompt is the union of its confident detections' masks. With P the mask of a parent's prompt, C the union
of its kinds' masks and G the ground truth of them all, on each image that shows one of the kinds (one beside the
parent, if that is a class itself):

- `consistency`: IoU(P, C). Where both are empty there is nothing to compare: the pair is left out, and `unanswered` is
  the fraction of such pairs. Where only one is empty it is 0.
- `parent_recall`: |P ∩ G| / |G|.
- `containment`, of parts: the fraction of a part's mask that lies in the masks of its wholes, where the image shows the
  part and its mask is not empty.
- `sibling_confusion`: the fraction of annotated regions that a sibling's prompt matches: one of its masks, or their
  union, has IoU ≥ 1/2 with the region, and no annotation of the sibling has. Of regions whose class has siblings.
- `cousin_confusion`, `stranger_confusion`: the same for cousins, and for all others that are not above or below.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.hierarchy import Hierarchy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Headline, Prompt, Record
from sam3_hyperet.inference.tiled_prediction import Detections, EncodedImage
from sam3_hyperet.masks import Rle

MATCH_IOU = 0.5
_HEADLINE = ("hierarchy/consistency", *(f"hierarchy/{kin}_confusion" for kin in ("sibling", "cousin", "stranger")))


def concepts(hierarchy: Hierarchy) -> tuple[str, ...]:
    """The names of a tree, each once."""
    return tuple(dict.fromkeys((*hierarchy.kinds, *hierarchy.parts, *hierarchy.children)))


@dataclass(frozen=True)
class _Values:
    """Values, each of an image, whose mean is a metric."""

    values: np.ndarray
    images: np.ndarray

    def of(self, rows: np.ndarray) -> _Values:
        return _Values(self.values[rows], self.images[rows])

    def mean(self, weights: np.ndarray) -> float:
        counts = weights[self.images]
        return float(counts @ self.values / total) if (total := counts.sum()) else float("nan")


class GranularityEvaluator(Evaluator):
    """Consistency and confusion within a concept tree.

    images: with the annotated regions. prompts: of the vocabulary: the names of the categories and those that
    `hierarchy.prompts` adds; others, such as synonyms, are not looked at. As an attribute, children: everything that
    has a parent, in the order of the numbers in the records. Raises ConfigError for a concept that no prompt names.
    """

    def __init__(self, images: AnnotatedImages, prompts: Sequence[Prompt], hierarchy: Hierarchy) -> None:
        named = {prompt.text for prompt in prompts if prompt.concept}
        if missing := [name for name in concepts(hierarchy) if name not in named]:
            raise ConfigError(f"hierarchy: no prompt names {missing[0]!r}; expected it in the vocabulary")
        self._images, self._hierarchy = images, hierarchy
        self._name_of = {category.id: category.name for category in images.categories}
        self.children = children = hierarchy.children
        self._groups: dict[str, list[int]] = defaultdict(list)  # the children of a parent; with parts, of a level too
        for level, families in (("kinds", hierarchy.kinds), ("parts", hierarchy.parts)):
            for parent, below in families.items():
                for group in (parent, level) if hierarchy.parts else (parent,):
                    self._groups[group] += [children.index(name) for name in below]
        relations = {"sibling": hierarchy.siblings, "cousin": hierarchy.cousins, "stranger": hierarchy.strangers}
        self._relatives = {
            relation: np.array([[other in related for other in children] for related in map(of, children)])
            for relation, of in relations.items()
        }

    def start(self, position: int, encoded: EncodedImage) -> None:
        image = self._images.image(position)
        self._size = image.height, image.width
        self._found: dict[str, list[Rle]] = {}
        self._annotated: dict[str, list[tuple[Rle, bool]]] = defaultdict(list)
        for region in self._images.instances(position):
            self._annotated[self._name_of[region.category_id]].append((region.rle, region.crowd))

    def add(self, prompt: Prompt, detections: Detections) -> None:
        if prompt.concept:
            self._found[prompt.text] = detections.rles(detections.confident)

    def finish(self) -> dict[str, np.ndarray]:
        """`kinds` (m, 5): the number of a parent and, in pixels, |P ∩ C|, |P ∪ C|, |P ∩ G| and |G|. `parts` (n, 3): the
        number of a child and the pixels of its mask in its wholes' and in all. `regions` (r,): the number of each
        region's class among the children. `matches` (m, 2): a region and the number of a child that matches it."""
        self._masks = {name: masks.union(found, *self._size) for name, found in self._found.items()}
        shown, matches = self._confusion()
        return {
            "kinds": np.array(self._consistency(), np.int64).reshape(-1, 5),
            "parts": np.array(self._containment(), np.int64).reshape(-1, 3),
            "regions": np.array(shown, np.int32),
            "matches": np.array(matches, np.int32).reshape(-1, 2),
        }

    def _consistency(self) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = []
        for number, (parent, children) in enumerate(self._hierarchy.kinds.items()):
            if not any(self._annotated.get(child) for child in children if child != parent):
                continue
            above, below = self._masks[parent], self._together(children)
            shown = [rle for name in {parent, *children} for rle, _ in self._annotated.get(name, ())]
            truth = masks.union(shown, *self._size)
            both = masks.intersection_area(above, below)
            either = masks.area(above) + masks.area(below) - both
            rows.append((number, both, either, masks.intersection_area(above, truth), masks.area(truth)))
        return rows

    def _containment(self) -> list[tuple[int, ...]]:
        rows: list[tuple[int, ...]] = []
        families = self._hierarchy.parts
        for part in dict.fromkeys(part for parts in families.values() for part in parts):
            area = masks.area(self._masks[part])
            if area and self._annotated.get(part):
                wholes = self._together([whole for whole, parts in families.items() if part in parts])
                rows.append((self.children.index(part), masks.intersection_area(self._masks[part], wholes), area))
        return rows

    def _confusion(self) -> tuple[list[int], list[tuple[int, int]]]:
        shown = [(name, rle) for name in self.children for rle, crowd in self._annotated.get(name, ()) if not crowd]
        areas = [rle for _, rle in shown]
        matches = []
        for number, name in enumerate(self.children):
            matched = masks.iou([*self._found[name], self._masks[name]], areas).max(axis=0, initial=0) >= MATCH_IOU
            regions = self._annotated.get(name, ())
            there = masks.iou(areas, [rle for rle, _ in regions], [crowd for _, crowd in regions])
            absent = there.max(axis=1, initial=0) < MATCH_IOU
            matches += [(r, number) for r, (own, _) in enumerate(shown) if matched[r] and (absent[r] or own == name)]
        return [self.children.index(name) for name, _ in shown], matches

    def _together(self, names: Sequence[str]) -> Rle:
        return masks.union([self._masks[name] for name in names], *self._size)

    def evaluate(self, records: Sequence[Record]) -> dict[str, float]:
        """Every metric with a value; as counts `hierarchy/pairs`, of an image and a parent, and `hierarchy/regions`."""
        once = np.ones(len(records), np.int64)
        found = {name: values.mean(once) for name, values in self._values(records).items() if len(values.values)}
        counts = {"pairs": len(_stack(records, "kinds")[0]), "regions": len(_stack(records, "regions")[0])}
        return found | {f"hierarchy/{name}": float(count) for name, count in counts.items()}

    def headline(self, records: Sequence[Record]) -> Headline:
        """Consistency, and sibling, cousin and stranger confusion, as far as they have a value."""
        found = self._values(records)
        shown = {name: found[name] for name in _HEADLINE if len(found[name].values)}
        return lambda weights: {name: values.mean(weights) for name, values in shown.items()}

    def confusion(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
        """(K, K) regions of each child's class that the prompt of each child matches, and (K,) of all; a region may be
        matched by several prompts or by none."""
        regions, _ = _stack(records, "regions")
        truth, prompt, _ = self._matches(records)
        matrix = np.zeros((len(self.children),) * 2, np.int64)
        np.add.at(matrix, (truth, prompt), 1)
        return matrix, np.bincount(regions, minlength=len(self.children))

    def _values(self, records: Sequence[Record]) -> dict[str, _Values]:
        pairs, images = _stack(records, "kinds")
        parent, both, either, covered, truth = pairs.T
        answered = either > 0
        consistency = _Values(both[answered] / either[answered], images[answered])
        recall, unanswered = _Values(covered / np.maximum(truth, 1), images), _Values((~answered).astype(float), images)
        found = {"consistency": consistency, "parent_recall": recall, "unanswered": unanswered}
        for number, name in enumerate(self._hierarchy.kinds):
            found[f"{name}/consistency"] = consistency.of(parent[answered] == number)
            found[f"{name}/parent_recall"] = recall.of(parent == number)
        parts, images = _stack(records, "parts")
        found["containment"] = _Values(parts[:, 1] / parts[:, 2], images)
        for relation in self._relatives:
            found |= self._confused(records, relation)
        return {f"hierarchy/{name}": values for name, values in found.items()}

    def _confused(self, records: Sequence[Record], relation: str) -> dict[str, _Values]:
        related = self._relatives[relation]
        regions, images = _stack(records, "regions")
        truth, prompt, region = self._matches(records)
        matched = np.zeros(len(regions))
        matched[region[related[truth, prompt]]] = 1
        rows = np.asarray(related.any(axis=1))[regions]
        values, regions = _Values(matched[rows], images[rows]), regions[rows]
        key = f"{relation}_confusion"
        by_group = {f"{group}/{key}": values.of(np.isin(regions, of_group)) for group, of_group in self._groups.items()}
        return {key: values} | by_group

    def _matches(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each match: the region's class, the prompt, and the region's place among those of all images."""
        regions, _ = _stack(records, "regions")
        matches, image = _stack(records, "matches")
        first = np.cumsum([0, *(len(record["regions"]) for record in records)])
        region = matches[:, 0] + first[image]
        return regions[region], matches[:, 1], region


def _stack(records: Sequence[Record], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of all images, and the place of each one's image among the records."""
    arrays = [record[name] for record in records]
    return np.concatenate(arrays), np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
