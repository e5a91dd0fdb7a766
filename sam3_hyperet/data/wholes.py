"""Masks of the objects whose parts a data set annotates: of files of their own, or the union of the parts."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import AnnotatedImages, Category, Instance, some
from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.label_maps import read_label_maps
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.subsets import Subset
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.masks import Rle

PARTS = "parts"


class WithWholes(Subset):
    """A data set of parts with their objects as categories more, one region an image each; label maps stay the parts'.

    objects: images of the same files with the objects' masks. What an image shows of an object is one region. Of an
        image that is not among them nothing is known of the objects. None: an object's region is the union of its
        parts in an image.
    """

    def __init__(self, parts: AnnotatedImages, objects: AnnotatedImages | None = None) -> None:
        """Raises ConfigError where no category is a part."""
        super().__init__(parts, range(len(parts)))
        self._objects, wholes = objects, dict.fromkeys(c.whole for c in parts.categories if c.whole)
        if not wholes:
            raise ConfigError(f"data.wholes: no category of {parts.name} is a part; expected data.parts, too")
        if objects is not None:
            wholes |= dict.fromkeys(_name(c) for c in objects.categories)
            self._at = {objects.files(i)[0]: i for i in range(len(objects))}
            known = {_name(c) for c in objects.categories}
            if without := [name for name in wholes if name not in known]:
                wholes = {name: None for name in wholes if name in known}
                self.remarks += (f"objects without masks of their own: {some(without, 20)}",)
        first = 1 + max(c.id for c in parts.categories)
        self._ids = {name: number for number, name in enumerate(wholes, start=first)}
        self._above = {c.id: self._ids[c.whole] for c in parts.categories if c.whole in self._ids}
        below = (replace(c, parents=(self._above[c.id],)) if c.id in self._above else c for c in parts.categories)
        self.categories = (*below, *(Category(number, name) for name, number in self._ids.items()))

    def instances(self, i: int) -> tuple[Instance, ...]:
        own, regions = super().instances(i), defaultdict[int, list[Rle]](list)
        if self._objects is None:
            for one in own:
                if one.category_id in self._above:
                    regions[self._above[one.category_id]].append(one.rle)
        elif (at := self._place(i)) is not None:
            of_category = self._of_objects(self._objects)
            for one in self._objects.instances(at):
                regions[of_category[one.category_id]].append(one.rle)
        record = self.image(i)
        wholes = (Instance(c, masks.union(found, record.height, record.width)) for c, found in sorted(regions.items()))
        return (*own, *wholes)

    def present(self, i: int) -> frozenset[int]:
        own = super().present(i)
        if self._objects is None:
            return own | {self._above[one] for one in own if one in self._above}
        at, of_category = self._place(i), self._of_objects(self._objects)
        return own | (frozenset() if at is None else {of_category[one] for one in self._objects.present(at)})

    def unlabelled(self, i: int) -> frozenset[int]:
        own = super().unlabelled(i)
        if self._objects is None:
            return own | ({self._above[one] for one in own if one in self._above} - self.present(i))
        return own | (frozenset(self._ids.values()) if self._place(i) is None else frozenset())

    @property
    def counts(self) -> Mapping[int, int] | None:  # type: ignore[override]
        """Of an object, the regions of its file, or the annotations of its parts."""
        counts = super().counts
        if counts is None:
            return None
        wholes = defaultdict[int, int](int)
        if self._objects is None:
            for part, whole in self._above.items():
                wholes[whole] += counts.get(part, 0)
        elif self._objects.counts is None:
            return None
        else:
            of_category = self._of_objects(self._objects)
            for category, number in self._objects.counts.items():
                wholes[of_category[category]] += number
        return {**counts, **{whole: number for whole, number in wholes.items() if number}}

    def _place(self, i: int) -> int | None:
        """The position of image i among those with the objects' masks."""
        return self._at.get(self.image(i).path)

    def _of_objects(self, objects: AnnotatedImages) -> dict[int, int]:
        return {c.id: self._ids[_name(c)] for c in objects.categories}


def _name(category: Category) -> str:
    """The first of the names of an object, as ADE20K lists them."""
    return category.name.split(",")[0].lower()


def read_objects(options: DataOptions, split: str, root: Path) -> AnnotatedImages | None:
    """The masks of objects that `options.wholes` names for a split, None for the union of parts.

    Raises ConfigError for a split that it does not name, DataError for files that cannot be used.
    """
    if options.wholes == PARTS:
        return None
    files = options.splits[split]
    if not isinstance(options.wholes, Mapping) or split not in options.wholes:
        expected = f"{PARTS}, or a folder of label maps or a COCO file below data.root for each split"
        raise ConfigError(f"data.wholes={options.wholes}: nothing for the split {split}; expected {expected}")
    if not isinstance(files, list | tuple):
        raise ConfigError(f"data.splits.{split}={files!r}; expected its folder of images first, for data.wholes")
    images, given = root / str(files[0]), root / options.wholes[split]
    try:
        if given.suffix == ".json":
            return read_coco(given, images, name=f"{options.name}, objects")
        return read_label_maps(images, given, options.whole_names, offset=0, name=f"{options.name}, objects")
    except DataError as error:
        raise DataError(f"data.wholes: {error}; data.wholes={PARTS} takes the union of the parts instead") from None
