"""COCO instance annotations, checked as they are read.

What is wrong (an unknown id, a missing image …) is an error naming file and record. What is merely degenerate (a mask
without a pixel) is left out and counted in `dropped`; a box or an area that cannot be follows from the mask and is
counted in `adjusted`. Polygons become masks one image at a time, so the whole of train2017 can be read.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sam3_hyperet.data.annotations import (
    MAX_CATEGORY_ID,
    AnnotatedImages,
    Category,
    ImageInfo,
    Instance,
    field,
    image_size,
    read_category,
    records,
    shown,
    some,
    spoken,
)
from sam3_hyperet.data.coco_annotations import AnnotationTable
from sam3_hyperet.data.coco_records import as_whole_number, read_id, read_side
from sam3_hyperet.data.finding import Listing, leaves_folder
from sam3_hyperet.data.hierarchy import ConceptTree, read_tree, with_tree
from sam3_hyperet.data.phrases import has_phrases, with_phrases_as_categories
from sam3_hyperet.errors import DataError
from sam3_hyperet.files import read_json
from sam3_hyperet.masks import MAX_SIDE


@dataclass(frozen=True)
class Federated:
    """LVIS's ids of the categories that an image does not show, and of those it may show more of than is annotated."""

    absent: frozenset[int]
    not_exhaustive: frozenset[int]


class CocoInstances(AnnotatedImages):
    """COCO instances, stored in flat arrays ordered by image; made by `read_coco`."""

    def __init__(
        self, name: str, categories: list[Category], table: AnnotationTable, federated: Mapping[int, Federated]
    ) -> None:
        super().__init__(name, categories)
        self._images, self._table, self._federated = table.images, table, federated
        self.dropped, self.adjusted = table.dropped, table.adjusted
        self.crowds, self.rectangles = int(table.crowd.sum()), table.rectangles
        self.counts = Counter(table.category.tolist())
        self._order = np.argsort(table.image, kind="stable")
        self._first = np.searchsorted(table.image[self._order], np.arange(len(table.images) + 1))

    def __len__(self) -> int:
        return len(self._images)

    @property
    def annotation_count(self) -> int:
        """How many annotations the file has, dropped ones included."""
        return len(self._table.id) + self.dropped.total()

    def image(self, i: int) -> ImageInfo:
        return self._images[i]

    def instances(self, i: int) -> tuple[Instance, ...]:
        return tuple(self._table.instance(row) for row in self._rows(i).tolist())

    def present(self, i: int) -> frozenset[int]:
        rows = self._rows(i)
        return frozenset(self._table.category[rows][~self._table.crowd[rows]].tolist())

    def crowd_only(self, i: int) -> frozenset[int]:
        rows = self._rows(i)
        crowd, category = self._table.crowd[rows], self._table.category[rows]
        return frozenset(category[crowd].tolist()) - frozenset(category[~crowd].tolist())

    def unlabelled(self, i: int) -> frozenset[int]:
        i = range(len(self))[i]
        lost = self._table.unlabelled.get(i, frozenset())
        if i not in self._federated:
            return lost
        known = self._federated[i].absent.union(self._table.category[self._rows(i)].tolist())
        return lost | (frozenset(category.id for category in self.categories) - known)  # nothing is known of the rest

    def not_exhaustive(self, i: int) -> frozenset[int]:
        i = range(len(self))[i]
        return self._federated[i].not_exhaustive if i in self._federated else frozenset()

    def _rows(self, i: int) -> np.ndarray:
        i = range(len(self))[i]
        return self._order[self._first[i] : self._first[i + 1]]


def read_coco(
    annotations: Path | str,
    images: Path | str,
    *,
    name: str = "coco",
    tree: Path | str | None = None,
    crowds: str = "ignore",
    upright: bool = False,
) -> CocoInstances:
    """Read a COCO instances JSON whose images lie in the folder `images`, listed once; no image is opened here.

    tree: a concepts.json, whose synonyms, granularities and parents the categories take by id; without one, a
        category's `synonyms` and `granularity` are its own and its siblings are those of its `supercategory`.
    crowds: "instances" reads each `iscrowd: 1` as one instance; "ignore" as a region that is ignored.
    upright: whether images are turned by their EXIF orientation, for those whose size the file does not say.
    Raises DataError, naming file and record.
    """
    path, folder = Path(annotations), Path(images)
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: found a {type(content).__name__}, expected an object with images, annotations, …")
    adjusted = Counter[str]()
    if has_phrases(content):
        content = with_phrases_as_categories(content, path, adjusted)
    categories = _categories(content, path, adjusted)
    if tree is not None:
        categories = with_tree(categories, read_tree(Path(tree)), path, Path(tree))
    try:
        ConceptTree(categories)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    names = {category.id: category.name for category in categories}
    infos = _images(content, path, Listing(folder), upright, adjusted)
    table = AnnotationTable(path, infos, names, crowds == "instances")
    federated = _federated(content, path, names)
    for where, record in records(content, "annotations", path):
        table.add(record, where)
    table.adjusted += adjusted
    table.finish()
    return CocoInstances(name, categories, table, federated)


def _categories(content: Mapping[str, Any], path: Path, adjusted: Counter[str]) -> list[Category]:
    listed = list(records(content, "categories", path))
    named = [record for _, record in listed if isinstance(record.get("name"), str)]
    named_by = {spoken(record["name"]): as_whole_number(record.get("id")) for record in named}
    found: dict[int, Category] = {}
    supers, ids = dict[str, int](), dict[str, int]()  # of supercategories, of names as SAM 3 reads them
    for where, record in listed:
        number = read_id(field(record, "id", where), f"{where}: its id", adjusted, MAX_CATEGORY_ID)
        category, where = read_category({**record, "id": number}, where, f"{path}: category")
        text = category.name
        if number in found:
            raise DataError(f"{where}: two categories have this id ({found[number].name!r} and {text!r})")
        if (other := ids.get(text.lower())) is not None:
            used = {as_whole_number(one.get("category_id")) for _, one in records(content, "annotations", path)}
            if number in used and other in used:
                raise DataError(
                    f"{where}: category {other} has the same name {text!r} ({found[other].name!r}), and so the same "
                    "prompt; expected one category, or names that tell them apart"
                )
            adjusted["category without annotation, named as another is, left out"] += 1
            if number not in used:
                continue
            del found[other]
        parents: tuple[int, ...] = ()
        above = record.get("supercategory")
        above = spoken(above) if isinstance(above, str) and above != "none" else ""
        if above and above != text and (parent := named_by.get(above)) is not None:
            parents, above = (parent,), ""
        elif above:
            parents = (supers.setdefault(above, -1 - len(supers)),)  # an id no category can have
        found[number] = replace(category, parents=parents, supercategory=above)
        ids[text.lower()] = number
    if not found:
        raise DataError(f"{path}: it has no categories")
    return list(found.values())


def _images(
    content: Mapping[str, Any], path: Path, listing: Listing, upright: bool, adjusted: Counter[str]
) -> list[ImageInfo]:
    found: dict[int, ImageInfo] = {}
    owners: dict[Path, int] = {}
    missing = []
    for where, record in records(content, "images", path):
        number = read_id(field(record, "id", where), f"{where}: its id", adjusted)
        where = f"{path}: image {number}"
        if number in found:
            raise DataError(f"{where}: two images have this id")
        file = _file(record, where, listing, adjusted)
        if file is None:
            missing.append(f"{record.get('file_name')} (image {number})")
            file = listing.folder / "missing"
        elif owners.setdefault(file, number) != number:
            raise DataError(
                f"{where}: its file {file} is that of image {owners[file]}, too; expected one record an image"
            )
        width, height = (read_side(record, side, where, adjusted, MAX_SIDE) for side in ("width", "height"))
        if not (width and height) and not missing:
            adjusted["image without a size, taken from its file"] += 1
            width, height = image_size(file, upright=upright)
        found[number] = ImageInfo(number, file, height, width)
    if not found:
        raise DataError(f"{path}: it has no images")
    if missing:
        raise DataError(f"{path}: {len(missing)} of {len(found)} images are not in {listing.folder}: {some(missing)}")
    return list(found.values())


def _file(record: Mapping[str, Any], where: str, listing: Listing, adjusted: Counter[str]) -> Path | None:
    """An image's file, by its `file_name` or, in LVIS, by the end of its `coco_url`; None if it is not there."""
    file_name = (
        record["coco_url"] if "coco_url" in record and "file_name" not in record else field(record, "file_name", where)
    )
    if not isinstance(file_name, str) or not file_name.strip() or "\0" in file_name:
        raise DataError(f"{where}: its file_name is {shown(file_name)}, expected a path below the image folder")
    leaves = leaves_folder(file_name)
    if not leaves and (file := listing.find(file_name)):
        return file
    if file := listing.find_by_end(file_name):
        adjusted["image path of another place or spelling, found by its end"] += 1
        return file
    if leaves:
        raise DataError(
            f"{where}: its file_name {shown(file_name)} leaves the image folder, and no file in {listing.folder} is "
            "named as its end"
        )
    return None


def _federated(content: Mapping[str, Any], path: Path, categories: Mapping[int, str]) -> dict[int, Federated]:
    """LVIS's keys of the images that have them, by position."""
    found = {}
    for position, (_, record) in enumerate(records(content, "images", path)):
        listed = {key: record.get(key, []) for key in ("neg_category_ids", "not_exhaustive_category_ids")}
        for key, ids in listed.items():
            if not isinstance(ids, list) or any(type(one) is not int or one not in categories for one in ids):
                raise DataError(f"{path}: image {record['id']}: its {key} are {shown(ids)}, expected category ids")
        if listed.keys() & record.keys():
            found[position] = Federated(*map(frozenset, listed.values()))
    return found
