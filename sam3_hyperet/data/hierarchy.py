"""Concept trees: of category ids, for drawing prompts; of names, for measuring consistency; and their file."""

import graphlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sam3_hyperet.data.annotations import Category, category_id, read_category, records
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.reading import read_json

Families = Mapping[str, tuple[str, ...]]

# COCO's supercategories that are no noun phrase for what is in them; the others are asked for as they are.
COCO_PROMPTS = {
    "outdoor": "street furniture",
    "sports": "sports equipment",
    "kitchen": "tableware",
    "electronic": "electronic device",
    "appliance": "household appliance",
    "indoor": "household item",
}


@dataclass(frozen=True)
class Hierarchy:
    """Prompts above prompts; a child may have several parents.

    kinds: parent -> its kinds, whose masks together are the parent's. A class that also stands for what is left of
        its kind is among its own kinds (ADE20K has "building" beside "house").
    parts: whole -> its parts, whose masks lie within the whole's.
    """

    kinds: Families
    parts: Families = field(default_factory=dict)

    def __post_init__(self) -> None:
        for parent, children in (*self.kinds.items(), *self.parts.items()):
            if not children or len(set(children)) != len(children):
                raise ConfigError(f"hierarchy: {parent!r} has the children {children!r}; expected different names")

    @property
    def children(self) -> tuple[str, ...]:
        """All that have a parent, each once."""
        return tuple(dict.fromkeys(name for family in (self.kinds, self.parts) for c in family.values() for name in c))

    def prompts(self, vocabulary: Collection[str]) -> tuple[str, ...]:
        """The parents that `vocabulary` lacks: more prompts. Raises ConfigError for a child that it lacks."""
        if missing := [name for name in self.children if name not in vocabulary]:
            raise ConfigError(f"hierarchy: {missing[0]!r} is not among the {len(vocabulary)} names of the vocabulary")
        return tuple(name for name in dict.fromkeys((*self.kinds, *self.parts)) if name not in vocabulary)

    def siblings(self, name: str) -> frozenset[str]:
        """Those that share a parent with `name`, without itself."""
        below = (self._families(name)[parent] for parent in self._parents(name))
        return frozenset(child for children in below for child in children) - {name}

    def cousins(self, name: str) -> frozenset[str]:
        """The children of the parents beside those of `name`, which share a parent with them or are all at the top."""
        families, own = self._families(name), self._parents(name)
        above = {grandparent for parent in own for grandparent in self._above(parent)}
        aunts = [p for p in families if (self._above(p) & above if above else not self._above(p))]
        cousins = frozenset(child for aunt in aunts for child in families[aunt])
        return cousins - self.siblings(name) - {name} if own else frozenset()

    def strangers(self, name: str) -> frozenset[str]:
        """All other children, but those that are above or below `name`."""
        lineage = self._ancestors(name) | {child for child in self.children if name in self._ancestors(child)}
        return frozenset(self.children) - self.siblings(name) - self.cousins(name) - lineage - {name}

    def _ancestors(self, name: str) -> set[str]:
        found, waiting = set[str](), {name}
        while waiting:
            waiting = {above for one in waiting for above in self._above(one)} - found
            found |= waiting
        return found

    def _families(self, name: str) -> Families:
        return self.kinds if any(name in children for children in self.kinds.values()) else self.parts

    def _parents(self, name: str) -> list[str]:
        return [parent for parent, children in self._families(name).items() if name in children]

    def _above(self, parent: str) -> set[str]:
        return set(self._parents(parent)) - {parent}


def hierarchy_of(categories: Sequence[Category]) -> Hierarchy | None:
    """The tree of categories by their parents or supercategories; for exactly ADE20K's classes, `ADE20K`; or None."""
    by_id = {category.id: category for category in categories}
    kinds, parts = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for category in categories:
        families = parts if category.granularity == "part" else kinds
        above = [by_id[parent].name for parent in category.parents if parent in by_id]
        for parent in above or filter(None, [category.whole]):
            families[parent].append(category.name)
        if category.supercategory:
            kinds[COCO_PROMPTS.get(category.supercategory, category.supercategory)].append(category.name)
    if kinds or parts:
        frozen = ({parent: tuple(children) for parent, children in families.items()} for families in (kinds, parts))
        return Hierarchy(*frozen)
    return ADE20K if {category.name for category in categories} == set(ADE20K.children) else None


class ConceptTree:
    """Parents, children and siblings by category id. A concept may have several parents, categories or not."""

    def __init__(self, categories: Iterable[Category]) -> None:
        self._parents = {category.id: category.parents for category in categories}
        children: dict[int, list[int]] = defaultdict(list)
        for child, parents in self._parents.items():
            for parent in parents:
                children[parent].append(child)
        self._children = {parent: tuple(found) for parent, found in children.items()}
        try:
            graphlib.TopologicalSorter(self._parents).prepare()
        except graphlib.CycleError as error:
            raise DataError(f"the concept tree runs in a circle: {error.args[1][0]} is above itself") from None

    def parents(self, concept: int) -> tuple[int, ...]:
        """Ids directly above."""
        return self._parents.get(concept, ())

    def children(self, concept: int) -> tuple[int, ...]:
        """Ids directly below."""
        return self._children.get(concept, ())

    def siblings(self, concept: int) -> frozenset[int]:
        """Ids that share a parent with `concept`, without itself."""
        return frozenset(s for parent in self.parents(concept) for s in self.children(parent)) - {concept}

    def implied(self, concept: int) -> frozenset[int]:
        """Ids present wherever `concept` is: those above it up to where there are several parents (a wheel's)."""
        found: set[int] = set()
        while len(above := self.parents(concept)) == 1:
            concept = above[0]
            found.add(concept)
        return frozenset(found)


def read_tree(path: Path) -> dict[int, Category]:
    """The concepts of a concepts.json: a list of {id, name, granularity, parents, synonyms}. Raises DataError."""
    found: dict[int, Category] = {}
    for where, record in records({"concepts": read_json(path)}, "concepts", path):
        category, where = read_category(record, where, f"{path}: concept")
        if category.id in found:
            raise DataError(f"{where}: two concepts have this id")
        parents = record.get("parents", [])
        if not isinstance(parents, list):
            raise DataError(f"{where}: its parents are no list of ids")
        ids = tuple(category_id(parent, f"{where}: a parent") for parent in parents)
        found[category.id] = replace(category, parents=ids)
    for concept in found.values():
        for parent in concept.parents:
            if parent not in found:
                raise DataError(f"{path}: concept {concept.id}: its parent {parent} is not in the file")
    ConceptTree(found.values())
    return found


def with_tree(
    categories: Sequence[Category], tree: Mapping[int, Category], path: Path, tree_path: Path
) -> list[Category]:
    """The categories of `path` with the synonyms, granularities and parents that `tree` has for their ids."""
    for category in categories:
        if category.id not in tree:
            raise DataError(f"{path}: category {category.id} ({category.name!r}) is not in {tree_path}")
        if (name := tree[category.id].name) != category.name:
            raise DataError(f"{path}: category {category.id} is {category.name!r}, {tree_path} calls it {name!r}")
    return [tree[category.id] for category in categories]


# ADE20K's benchmark has no tree; this one is ours. Every class once, under a name that can be asked for.
ADE20K = Hierarchy(
    {
        parent: tuple(children.split(", "))
        for parent, children in {
            "sky": "sky",
            "building": "building, house, skyscraper, tower, hovel",
            "structure": "bridge, pier, fountain, grandstand, tent, canopy, awning, booth, stage, conveyer belt",
            "room surface": "wall, floor, ceiling",
            "opening in a wall": "door, screen door, windowpane",
            "stairs": "stairs, stairway, step, escalator",
            "barrier": "fence, railing, bannister",
            "post": "column, pole, base",
            "paved way": "road, sidewalk, path, runway, dirt track",
            "terrain": "earth, mountain, rock, sand, hill, land, field",
            "body of water": "water, sea, river, lake, waterfall, swimming pool",
            "vegetation": "tree, grass, plant, flower, palm",
            "living being": "person, animal",
            "vehicle": "car, boat, bus, truck, airplane, van, ship, minibike, bicycle",
            "seating furniture": "chair, sofa, armchair, seat, swivel chair, ottoman, stool, bench",
            "table": "table, desk, coffee table, pool table, counter, countertop, kitchen island, buffet, bar",
            "bed": "bed, cradle",
            "storage furniture": "cabinet, shelf, wardrobe, chest of drawers, bookcase, case",
            "textile": "curtain, blind, rug, cushion, pillow, towel, blanket, apparel, flag",
            "lamp": "lamp, light, chandelier, sconce, streetlight",
            "appliance": "refrigerator, stove, oven, microwave, dishwasher, washer, hood, fan, radiator, fireplace",
            "bathroom fixture": "bathtub, sink, toilet, shower",
            "electronic device": "computer, television, screen, crt screen, monitor, arcade machine",
            "container": "box, basket, barrel, bag, bottle, pot, vase, tank, ashcan",
            "tableware": "plate, glass, tray",
            "sign": "signboard, bulletin board, trade name, traffic light",
            "decoration": "painting, mirror, clock, sculpture",
            "printed matter": "book, poster",
            "toy": "ball, plaything",
            "food": "food",
        }.items()
    }
)
