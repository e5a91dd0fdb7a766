"""The concept tree, and what of a picture each concept and each level covers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import GRANULARITIES, Category
from sam3_hyperet.data.hierarchy import ConceptTree, read_tree
from sam3_hyperet.demo.models import Found, distinct
from sam3_hyperet.demo.prompts import MAX_PROMPTS
from sam3_hyperet.errors import DataError
from sam3_hyperet.scenes.concepts import CONCEPTS


@dataclass(frozen=True)
class Row:
    """A concept in the tree, `depth` steps below the top; its place in the list of concepts is its `number`."""

    number: int
    name: str
    level: str
    depth: int


@dataclass(frozen=True)
class Coverage:
    """How many distinct detections a model has, and the fraction of the picture that their masks cover together."""

    count: int
    fraction: float


class Concepts:
    """The concepts of a tree; one with several parents stands below each of them."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self.names = tuple(category.name for category in categories)
        self.levels = tuple(category.granularity for category in categories)
        numbers = {category.id: number for number, category in enumerate(categories)}
        tree = ConceptTree(categories)

        def below(category: Category, depth: int) -> list[Row]:
            own = Row(numbers[category.id], category.name, category.granularity, depth)
            children = (categories[numbers[child]] for child in tree.children(category.id))
            return [own, *(row for child in children for row in below(child, depth + 1))]

        tops = [category for category in categories if not category.parents]
        tops.sort(key=lambda category: -GRANULARITIES.index(category.granularity))
        self.rows = tuple(row for category in tops for row in below(category, 0))

    @classmethod
    def of_scenes(cls) -> "Concepts":
        """Those of the drawn scenes."""
        return cls([Category(c.id, c.name, granularity=c.granularity, parents=c.parents) for c in CONCEPTS.values()])

    @classmethod
    def read(cls, path: Path) -> "Concepts":
        """Those of a concepts.json. Raises DataError, also for more than can be asked for at once."""
        found = list(read_tree(path).values())
        if not 0 < len(found) <= MAX_PROMPTS:
            raise DataError(f"{path}: it has {len(found)} concepts, expected from 1 to {MAX_PROMPTS}")
        return cls(found)

    def by_level(self) -> Mapping[str, list[int]]:
        """Numbers of the concepts of each level that there is, the coarsest first."""
        levels = [level for level in reversed(GRANULARITIES) if level in self.levels]
        return {level: [k for k, own in enumerate(self.levels) if own == level] for level in levels}


def coverage(found: Sequence[Found], threshold: float, size: tuple[int, int]) -> Coverage:
    """What detections of at least a score cover of a picture that is shown at (width, height)."""
    shown = [one.masks[k] for one in found for k in distinct(one, threshold)]
    width, height = size
    return Coverage(len(shown), masks.area(masks.union(shown, height, width)) / (width * height))
