"""Concepts above the categories of a data set, as categories more: what their members show, they show."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import AnnotatedImages, Category, Instance, prompt_name, some
from sam3_hyperet.data.label_maps import IGNORED
from sam3_hyperet.data.subsets import Subset
from sam3_hyperet.data.vocabularies import vocabulary_ids
from sam3_hyperet.errors import ConfigError, DataError

Families = Mapping[Category, tuple[int, ...]]
"""Supercategories, and the ids of their members."""


def families(stated: Mapping[str, str | tuple[str, ...]], images: AnnotatedImages) -> Families:
    """Supercategories of granularity "group" with ids of their own. Raises ConfigError.

    A category is of one of them at most, so that label maps of them have one label a pixel.
    """
    members: dict[Category, tuple[int, ...]] = {}
    names = {category.name.lower() for category in images.categories}
    asked = [category for category in images.categories if category.id != images.background]
    first = 1 + max(category.id for category in images.categories)
    for number, (text, categories) in enumerate(stated.items(), start=first):
        option = f"data.supercategories.{text}"
        try:
            name = prompt_name(text, option)
        except DataError as error:
            raise ConfigError(str(error)) from None
        if name.lower() in names:
            remedy = "expected another name; a category of no supercategory stays what it is in their label maps"
            raise ConfigError(f"{option}: {name!r} is the name of a category or of another one already; {remedy}")
        names.add(name.lower())
        ids = vocabulary_ids(categories, asked, option)
        for other, taken in members.items():
            if twice := [category.name for category in asked if category.id in ids and category.id in taken]:
                raise ConfigError(f"{option}: {some(twice)} in {other.name!r}, too; expected each in one at most")
        members[Category(number, name, granularity="group")] = ids
    return members


class WithSupercategories(Subset):
    """A data set with supercategories as categories more.

    Of a set of instances, each instance of a member is one of the supercategory; of label maps, the union of what an
    image shows of the members is its one region.
    """

    def __init__(self, whole: AnnotatedImages, members: Families) -> None:
        super().__init__(whole, range(len(whole)))
        self._members = {category.id: frozenset(ids) for category, ids in members.items()}
        self._above = {member: category.id for category, ids in members.items() for member in ids}
        above = {member: (category,) for member, category in self._above.items()}
        below = (replace(one, parents=one.parents + above.get(one.id, ())) for one in whole.categories)
        self.categories = (*below, *members)
        self.stated_absent = self._of_any(self.stated_absent)  # `unlabelled` where any member is
        names = {category.id: category.name for category in whole.categories}
        listed = "; ".join(
            f"{category.name} ({some((names[i] for i in ids), 20)})" for category, ids in members.items()
        )
        self.remarks += (f"supercategories: {listed}",)

    def instances(self, i: int) -> tuple[Instance, ...]:
        own = super().instances(i)
        if self.has_instances:
            kinds = (one for one in own if one.category_id in self._above)
            return (*own, *(replace(one, category_id=self._above[one.category_id]) for one in kinds))
        record, regions = self.image(i), list[Instance]()
        for category, members in self._members.items():
            if parts := [one.rle for one in own if one.category_id in members]:
                regions.append(Instance(category, masks.union(parts, record.height, record.width)))
        return (*own, *regions)

    def present(self, i: int) -> frozenset[int]:
        own = super().present(i)
        return own | {category for category, members in self._members.items() if own & members}

    def max_instances(self, names: Mapping[int, int]) -> np.ndarray | None:
        own = super().max_instances(names)
        above = super().max_instances({member: names[one] for member, one in self._above.items() if one in names})
        return None if own is None or above is None else np.maximum(own, above)

    def crowd_only(self, i: int) -> frozenset[int]:
        return self._of_any(super().crowd_only(i)) - self.present(i)

    def unlabelled(self, i: int) -> frozenset[int]:
        return self._of_any(super().unlabelled(i)) - self.present(i)

    def not_exhaustive(self, i: int) -> frozenset[int]:
        own = super().not_exhaustive(i)
        unknown = self._of_any(super().unlabelled(i)) & self._members.keys() & self.present(i)
        return self._of_any(own) | unknown

    def _of_any(self, ids: frozenset[int]) -> frozenset[int]:
        """Ids of categories, and of the supercategories of any."""
        return ids | {category for category, members in self._members.items() if ids & members}

    @property
    def counts(self) -> Mapping[int, int] | None:  # type: ignore[override]
        """Of a supercategory, the annotations of its members."""
        counts = super().counts
        if counts is None:
            return None
        return {**counts, **{c: n for c, ids in self._members.items() if (n := sum(counts.get(i, 0) for i in ids))}}


class SupercategoryMaps(Subset):
    """Label maps of the supercategories, and of the categories that are of none."""

    def __init__(self, whole: AnnotatedImages, members: Families) -> None:
        super().__init__(whole, range(len(whole)))
        self._above = {member: category.id for category, ids in members.items() for member in ids}
        self.categories = (*(one for one in whole.categories if one.id not in self._above), *members)
        self.has_instances = False

    def label_map(self, i: int) -> np.ndarray | None:
        labels = super().label_map(i)
        return None if labels is None else self._table[labels]

    @cached_property
    def _table(self) -> np.ndarray:
        """By category id, the id in these maps; `IGNORED` indexes the last one."""
        ids = [category.id for category in self._whole.categories]
        table = np.full(max(ids) + 2, IGNORED)
        table[ids] = [self._above.get(i, i) for i in ids]
        return table
