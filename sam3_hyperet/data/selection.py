"""Which images of a split are taken: held out by chance, or a few of each category; by seed and name, in any order."""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sam3_hyperet.data.annotations import AnnotatedImages, some
from sam3_hyperet.data.finding import composed
from sam3_hyperet.wording import count_of

_COPY = re.compile(r"(.+?)(?:_(?:jpe?g|png|bmp|webp|tiff?))?\.rf\.[0-9A-Za-z]+", re.IGNORECASE)
_LISTED = 40  # categories by name in a line

Groups = list[list[int]]
"""Positions of images, the copies of one picture together."""


def picture_name(file_name: str) -> str:
    """An image's name without its ending, and without what Roboflow adds to each augmented copy of a picture."""
    stem = composed(os.path.splitext(file_name)[0])
    copy = _COPY.fullmatch(stem)
    return copy[1] if copy else stem


def in_chance_order(images: AnnotatedImages, seed: int) -> Groups:
    """All images, shuffled by seed and by name: their order in a file does not matter, nor where the set lies."""
    groups = defaultdict[tuple[str, str], list[int]](list)
    for i in range(len(images)):
        path = images.files(i)[0]  # which opens nothing
        groups[str(path.parent), picture_name(path.name)].append(i)
    above = os.path.commonpath([folder for folder, _ in groups]) if groups else ""
    bearers = Counter(name for _, name in groups)

    def chance(key: tuple[str, str]) -> str:
        folder, name = key
        where = "" if bearers[name] == 1 else os.path.relpath(folder, above).replace(os.sep, "/")
        return hashlib.sha256(f"{seed}/{where}/{name}".encode()).hexdigest()

    return [groups[key] for key in sorted(groups, key=chance)]


def take(groups: Groups, count: int) -> tuple[Groups, Groups]:
    """Whole groups of `count` images or just over, and the others; at least one group is left."""
    taken, number = 0, 0
    while number < count and taken < len(groups) - 1:
        number += len(groups[taken])
        taken += 1
    return groups[:taken], groups[taken:]


def few_shots(images: AnnotatedImages, groups: Groups, shots: int) -> tuple[list[int], list[str]]:
    """Positions of `shots` images of each category that has so many, one of each picture, and lines that say so.

    The rarest category chooses first; an image counts for all the categories that it shows.
    """
    names = {category.id: category.name for category in images.categories}
    shown = {group[0]: images.present(group[0]) for group in groups}
    showing = defaultdict[int, list[int]](list)
    for i, categories in shown.items():
        for category in categories:
            showing[category].append(i)
    chosen, got = dict[int, None](), Counter[int]()
    for category in sorted(showing, key=lambda one: (len(showing[one]), names[one])):
        for i in showing[category]:
            if got[category] >= shots:
                break
            if i not in chosen:
                chosen[i] = None
                got.update(shown[i])
    found = f"{len(chosen)} of {count_of(len(images), 'image')}; images by category: {_listed(got, names)}"
    lines = [f"data.shots={shots}: {found}"]
    if fewer := Counter({category: n for category, n in got.items() if n < shots}):
        lines.append(f"fewer than {count_of(shots, 'image')} show: {_listed(fewer, names)}")
    return sorted(chosen), lines


def few_images(images: AnnotatedImages, groups: Groups, count: int) -> tuple[list[int], list[str]]:
    """Positions of the first `count` images, one of each picture, and lines that say what they show."""
    names = {category.id: category.name for category in images.categories}
    chosen = [group[0] for group in groups[:count]]
    shown = Counter(category for i in chosen for category in images.present(i) if category in names)
    found = f"{len(chosen)} of {count_of(len(images), 'image')}; images by category: {_listed(shown, names)}"
    lines = [f"data.train_images={count}: {found}"]
    if unseen := [name for category, name in names.items() if category not in shown and category != images.background]:
        lines.append(f"none of these images shows: {some(unseen, _LISTED)}")
    return sorted(chosen), lines


def _listed(counts: Counter[int], names: Mapping[int, str]) -> str:
    """Categories with their counts, the most frequent first."""
    listed = sorted(((n, names[category]) for category, n in counts.items()), key=lambda one: (-one[0], one[1]))
    return some((f"{name} {n}" for n, name in listed), _LISTED)


def without(groups: Groups, positions: Collection[int]) -> Groups:
    """The groups that have none of these images."""
    excluded = set(positions)
    return [group for group in groups if excluded.isdisjoint(group)]


def copied_picture(path: Path) -> str | None:
    """The name of the picture that Roboflow made an image of; None for others."""
    return picture_name(path.name) if ".rf." in path.name else None


def positions(groups: Sequence[Sequence[int]]) -> list[int]:
    """The images of some groups, in the order of the split."""
    return sorted(i for group in groups for i in group)
