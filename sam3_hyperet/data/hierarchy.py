"""Concept trees as prompts: which names are kinds of another, and which are parts of another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from sam3_hyperet.data.annotations import Category
from sam3_hyperet.errors import ConfigError

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

    Attributes:
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
        """The parents that `vocabulary` lacks: what has to be asked in addition.

        Raises:
            ConfigError: a child that the vocabulary lacks.
        """
        if missing := [name for name in self.children if name not in vocabulary]:
            raise ConfigError(f"hierarchy: {missing[0]!r} is not among the {len(vocabulary)} names of the vocabulary")
        return tuple(name for name in dict.fromkeys((*self.kinds, *self.parts)) if name not in vocabulary)

    def siblings(self, name: str) -> frozenset[str]:
        """Those that share a parent with `name`, without itself."""
        below = (self._families(name)[parent] for parent in self._parents(name))
        return frozenset(child for children in below for child in children) - {name}

    def cousins(self, name: str) -> frozenset[str]:
        """The children of the parents beside those of `name`: beside them is what shares a parent with them or, at the
        top, every other parent of the tree."""
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
    """The tree that categories have by themselves: by their parents, as the scenes' have; by their supercategories, as
    COCO's have; for exactly the 150 classes of ADE20K one of our own, `ADE20K`. None where there is none."""
    by_id = {category.id: category for category in categories}
    kinds: dict[str, list[str]] = defaultdict(list)
    parts: dict[str, list[str]] = defaultdict(list)
    for category in categories:
        families = parts if category.granularity == "part" else kinds
        for parent in category.parents:
            if parent in by_id:
                families[by_id[parent].name].append(category.name)
        if category.supercategory:
            kinds[COCO_PROMPTS.get(category.supercategory, category.supercategory)].append(category.name)
    if kinds or parts:
        return Hierarchy(_frozen(kinds), _frozen(parts))
    return ADE20K if {category.name for category in categories} == set(ADE20K.children) else None


def _frozen(families: Mapping[str, list[str]]) -> Families:
    return {parent: tuple(children) for parent, children in families.items()}


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
