"""Parts of a data set: some of its images, some of its annotations, some of its vocabulary."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from sam3_hyperet.data.annotations import AnnotatedImages, ImageInfo, Instance, some
from sam3_hyperet.data.label_maps import IGNORED
from sam3_hyperet.data.vocabularies import without_phrases_of


class Subset(AnnotatedImages):
    """Some images of a data set, by their positions in it."""

    def __init__(self, whole: AnnotatedImages, positions: Sequence[int], remarks: Sequence[str] = ()) -> None:
        super().__init__(whole.name, whole.categories)
        self._whole, self._positions = whole, list(positions)
        self.dropped, self.adjusted, self.crowds = whole.dropped, whole.adjusted, whole.crowds
        self.rectangles, self.boxed = whole.rectangles, whole.boxed
        self.is_upright, self.has_instances = whole.is_upright, whole.has_instances
        self.remarks, self.background = (*whole.remarks, *remarks), whole.background
        self.left_out, self.stated_absent = whole.left_out, whole.stated_absent

    def __len__(self) -> int:
        return len(self._positions)

    def image(self, i: int) -> ImageInfo:
        return self._whole.image(self._positions[i])

    def instances(self, i: int) -> tuple[Instance, ...]:
        return self._whole.instances(self._positions[i])

    def label_map(self, i: int) -> np.ndarray | None:
        return self._whole.label_map(self._positions[i])

    def files(self, i: int) -> tuple[Path, ...]:
        return self._whole.files(self._positions[i])

    def present(self, i: int) -> frozenset[int]:
        return self._whole.present(self._positions[i])

    def crowd_only(self, i: int) -> frozenset[int]:
        return self._whole.crowd_only(self._positions[i])

    def max_instances(self, names: Mapping[int, int]) -> np.ndarray | None:
        found = self._whole.max_instances(names)
        return None if found is None else found[self._positions]

    def unlabelled(self, i: int) -> frozenset[int]:
        return self._whole.unlabelled(self._positions[i])

    def not_exhaustive(self, i: int) -> frozenset[int]:
        return self._whole.not_exhaustive(self._positions[i])

    @property
    def counted(self) -> int:
        return self._whole.counted

    @property
    def counts(self) -> Mapping[int, int] | None:  # type: ignore[override]
        return self._whole.counts

    def value_lines(self, listed: int) -> list[str]:
        return self._whole.value_lines(listed)


class _OfCategories(Subset):
    """A data set with the annotations of some categories alone."""

    def __init__(self, whole: AnnotatedImages, ids: Collection[int]) -> None:
        super().__init__(whole, range(len(whole)))
        self._kept = frozenset(ids)

    def instances(self, i: int) -> tuple[Instance, ...]:
        return tuple(one for one in super().instances(i) if one.category_id in self._kept)

    def present(self, i: int) -> frozenset[int]:
        return super().present(i) & self._kept

    def max_instances(self, names: Mapping[int, int]) -> np.ndarray | None:
        return super().max_instances({category: name for category, name in names.items() if category in self._kept})

    def crowd_only(self, i: int) -> frozenset[int]:
        return super().crowd_only(i) & self._kept

    def unlabelled(self, i: int) -> frozenset[int]:
        return super().unlabelled(i) & self._kept


class OfGranularities(_OfCategories):
    """A data set with the annotations of some granularities alone; its images and its vocabulary stay whole."""

    def __init__(self, whole: AnnotatedImages, granularities: Sequence[str]) -> None:
        super().__init__(whole, [c.id for c in whole.categories if c.granularity in granularities])


class OfVocabulary(_OfCategories):
    """A data set with some of its categories alone, by id: what shows another one is there, unlabelled.

    A synonym with the name of another one in it ("tall building" for a tower, without building) is left out as well.
    """

    def __init__(self, whole: AnnotatedImages, ids: Collection[int]) -> None:
        super().__init__(whole, {*ids, *([] if whole.background is None else [whole.background])})
        others = [category for category in whole.categories if category.id not in self._kept]
        own = (category for category in whole.categories if category.id in self._kept)
        categories, phrases = without_phrases_of((category.name for category in others), own)
        self.categories = tuple(categories)
        self.left_out |= {word.lower() for one in others for word in (one.name, *one.synonyms)}
        if phrases:
            self.remarks += (f"synonyms with the name of a category that is left out, so not used: {some(phrases, 9)}",)

    def label_map(self, i: int) -> np.ndarray | None:
        labels = super().label_map(i)
        return None if labels is None else np.where(np.isin(labels, sorted(self._kept)), labels, IGNORED)
