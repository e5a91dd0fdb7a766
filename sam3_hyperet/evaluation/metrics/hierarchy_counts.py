"""Metrics of a concept tree, from the areas and matches that `GranularityEvaluator` counts on each image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sam3_hyperet.data.hierarchy import Hierarchy
from sam3_hyperet.evaluation.metrics.evaluator import Headline, Record

_HEADLINE = ("hierarchy/consistency", *(f"hierarchy/{kin}_confusion" for kin in ("sibling", "cousin", "stranger")))


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


class HierarchyCounts:
    """Adds up the records of images.

    Attributes:
        children: everything that has a parent, in the order of the numbers in the records.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.children = hierarchy.children
        self._parents = tuple(hierarchy.kinds)
        number = {name: i for i, name in enumerate(self.children)}
        self._groups: dict[str, list[int]] = defaultdict(list)  # the children of a parent; with parts, of a level too
        for level, families in (("kinds", hierarchy.kinds), ("parts", hierarchy.parts)):
            for parent, children in families.items():
                for group in (parent, level) if hierarchy.parts else (parent,):
                    self._groups[group] += [number[name] for name in children]
        self._relatives = {
            relation: self._matrix([[number[other] for other in of(name)] for name in self.children])
            for relation, of in (
                ("sibling", hierarchy.siblings),
                ("cousin", hierarchy.cousins),
                ("stranger", hierarchy.strangers),
            )
        }

    def metrics(self, records: Sequence[Record]) -> dict[str, float]:
        """Every metric that has a value, and the counts behind them: `hierarchy/pairs` of an image and a parent, and
        `hierarchy/regions`."""
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
        recall = _Values(covered / np.maximum(truth, 1), images)
        found = {
            "consistency": consistency,
            "parent_recall": recall,
            "unanswered": _Values((~answered).astype(float), images),
        }
        for number, name in enumerate(self._parents):
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
        has_any = np.asarray(related.any(axis=1))
        rows = has_any[regions]
        values, regions = _Values(matched[rows], images[rows]), regions[rows]
        key = f"{relation}_confusion"
        found = {key: values}
        for group, children in self._groups.items():
            found[f"{group}/{key}"] = values.of(np.isin(regions, children))
        return found

    def _matches(self, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each match: the region's class, the prompt, and the region's place among those of all images."""
        regions, _ = _stack(records, "regions")
        matches, image = _stack(records, "matches")
        first = np.cumsum([0, *(len(record["regions"]) for record in records)])
        region = matches[:, 0] + first[image]
        return regions[region], matches[:, 1], region

    def _matrix(self, relatives: Sequence[Sequence[int]]) -> np.ndarray:
        matrix = np.zeros((len(relatives),) * 2, bool)
        for row, columns in enumerate(relatives):
            matrix[row, list(columns)] = True
        return matrix


def _stack(records: Sequence[Record], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of all images, and the place of each one's image among the records."""
    arrays = [record[name] for record in records]
    return np.concatenate(arrays), np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
