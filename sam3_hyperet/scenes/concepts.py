"""The concept tree of `scenes`: parts ⊂ objects ⊂ groups, one contiguous range of category ids.

Objects come first, so that an object's category id is also its value in the label maps (0 is unlabelled).
"""

from dataclasses import dataclass

_OBJECTS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    # object: (its group, phrases that denote the same single concept)
    "car": ("vehicle", ("small vehicle",)),
    "bus": ("vehicle", ("long vehicle",)),
    "house": ("building", ("wide building",)),
    "tower": ("building", ("tall building",)),
    "tree": ("plant", ("tall plant",)),
    "bush": ("plant", ("round plant",)),
    "person": ("creature", ("standing creature",)),
    "dog": ("creature", ("walking creature",)),
    "road": ("ground", ("hard ground",)),
    "grass": ("ground", ("soft ground",)),
    "sky": (None, ()),
}
_PARTS: dict[str, tuple[str, ...]] = {
    "wheel": ("car", "bus"),
    "window": ("car", "bus", "house", "tower"),
    "roof": ("house",),
    "door": ("house", "tower"),
    "crown": ("tree",),
    "trunk": ("tree",),
    "flower": ("bush",),
    "head": ("person", "dog"),
    "leg": ("person", "dog"),
}

THINGS = ("car", "bus", "house", "tower", "tree", "bush", "person", "dog")
STUFF = ("road", "grass", "sky")
OBJECTS, PARTS = tuple(_OBJECTS), tuple(_PARTS)
GROUPS = tuple(dict.fromkeys(group for group, _ in _OBJECTS.values() if group is not None))
HELD_OUT = ("wheel", "roof", "trunk", "leg", "building", "creature")
"""Parts and groups that a base which knows the other concepts is adapted to."""


@dataclass(frozen=True)
class SceneConcept:
    """One node of the tree; `parents` are the ids of the concepts it is a part or a kind of."""

    id: int
    name: str
    granularity: str
    parents: tuple[int, ...]
    synonyms: tuple[str, ...] = ()


def _tree() -> dict[str, SceneConcept]:
    ids = {name: number for number, name in enumerate((*OBJECTS, *PARTS, *GROUPS), start=1)}
    tree = {}
    for name, (group, synonyms) in _OBJECTS.items():
        tree[name] = SceneConcept(ids[name], name, "object", (ids[group],) if group else (), synonyms)
    for name, owners in _PARTS.items():
        tree[name] = SceneConcept(ids[name], name, "part", tuple(ids[owner] for owner in owners))
    return tree | {name: SceneConcept(ids[name], name, "group", ()) for name in GROUPS}


CONCEPTS: dict[str, SceneConcept] = _tree()


def group_of(name: str) -> str | None:
    """The group of an object-level concept, or None where it has none."""
    return _OBJECTS[name][0]
