"""COCO instance annotations, checked as they are read.

What is wrong (an unknown id, a size that disagrees, a missing picture …) is an error naming file and record.
What is merely degenerate (a polygon of fewer than 3 points, a box without area, a mask without a pixel) is
left out and counted in `dropped`. Polygons become masks only when a picture is asked for, so the whole of
train2017 can be read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from sam3_hyperet.data.annotations import (
    GRANULARITIES,
    AnnotatedImages,
    Category,
    ImageRecord,
    Instance,
    category_id,
    prompt_name,
    shown,
    some,
    whole_number,
)
from sam3_hyperet.data.coco_annotations import AnnotationTable
from sam3_hyperet.data.json_files import field, read_json, records
from sam3_hyperet.data.prompts import read_tree, with_tree
from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import MAX_SIDE


class CocoInstances(AnnotatedImages):
    """COCO instances, stored in flat arrays ordered by picture; made by `read_coco`."""

    def __init__(
        self, name: str, categories: list[Category], images: list[ImageRecord], table: AnnotationTable
    ) -> None:
        super().__init__(name, categories)
        self._images, self._table = images, table
        self.dropped, self.adjusted = table.dropped, table.adjusted
        self._order = np.argsort(table.image, kind="stable")
        self._first = np.searchsorted(table.image[self._order], np.arange(len(images) + 1))

    def __len__(self) -> int:
        return len(self._images)

    @property
    def annotation_count(self) -> int:
        """How many annotations the file has, dropped ones included."""
        return len(self._table.id) + self.dropped.total()

    def image(self, i: int) -> ImageRecord:
        return self._images[i]

    def instances(self, i: int) -> tuple[Instance, ...]:
        table, record = self._table, self._images[i]
        return tuple(
            Instance(
                int(table.category[row]),
                table.rle(row, record.height, record.width),
                bool(table.crowd[row]),
                int(table.id[row]),
            )
            for row in self._rows(i).tolist()
        )

    def crowd_only(self, i: int) -> frozenset[int]:
        rows = self._rows(i)
        crowd, category = self._table.crowd[rows], self._table.category[rows]
        return frozenset(category[crowd].tolist()) - frozenset(category[~crowd].tolist())

    def _rows(self, i: int) -> np.ndarray:
        i = range(len(self))[i]
        return self._order[self._first[i] : self._first[i + 1]]


def read_coco(
    annotations: Path | str,
    images: Path | str,
    *,
    name: str = "coco",
    check_files: bool = True,
    tree: Path | str | None = None,
) -> CocoInstances:
    """Read a COCO instances JSON whose pictures lie in the folder `images`.

    check_files: whether every picture must exist (folders are listed once; no picture is opened here).
    tree: a concepts.json, whose synonyms, granularities and parents the categories take by id; without one, a
        category's `synonyms` and `granularity` are its own and its siblings are those of its `supercategory`.
    Raises DataError, naming file and record.
    """
    path, folder = Path(annotations), Path(images)
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: found a {type(content).__name__}, expected an object with images, annotations, …")
    categories = _categories(content, path)
    if tree is not None:
        categories = with_tree(categories, read_tree(Path(tree)), path, Path(tree))
    image_records, position = _images(content, path, folder)
    if check_files:
        _check_files(image_records, folder, path)
    table = AnnotationTable(path, image_records, position, {category.id for category in categories})
    for where, record in records(content, "annotations", path):
        table.add(record, where)
    table.finish()
    return CocoInstances(name, categories, image_records, table)


def _categories(content: Mapping[str, Any], path: Path) -> list[Category]:
    supers: dict[str, int] = {}
    found: dict[int, Category] = {}
    named: dict[str, int] = {}
    for where, record in records(content, "categories", path):
        number = category_id(field(record, "id", where), f"{where}: its id")
        where = f"{path}: category {number}"
        text = prompt_name(field(record, "name", where), f"{where}: its name")
        if number in found:
            raise DataError(f"{where}: two categories have this id ({found[number].name!r} and {text!r})")
        if text in named:
            raise DataError(f"{where}: category {named[text]} has the same name {text!r}")
        synonyms = record.get("synonyms", [])
        if not isinstance(synonyms, list):
            raise DataError(f"{where}: its synonyms are {shown(synonyms)}, expected a list of names")
        granularity = record.get("granularity", "object")
        if granularity not in GRANULARITIES:
            raise DataError(f"{where}: its granularity is {shown(granularity)}, expected {', '.join(GRANULARITIES)}")
        parents: tuple[int, ...] = ()
        if isinstance(above := record.get("supercategory"), str) and above and above != "none":
            parents = (supers.setdefault(above, -1 - len(supers)),)  # an id no category can have
        words = tuple(prompt_name(word, f"{where}: a synonym") for word in synonyms)
        found[number] = Category(number, text, words, granularity, parents, str(above) if parents else "")
        named[text] = number
    if not found:
        raise DataError(f"{path}: it has no categories")
    return list(found.values())


def _images(content: Mapping[str, Any], path: Path, folder: Path) -> tuple[list[ImageRecord], dict[int, int]]:
    found: list[ImageRecord] = []
    position: dict[int, int] = {}
    for where, record in records(content, "images", path):
        number = whole_number(field(record, "id", where), f"{where}: its id")
        where = f"{path}: image {number}"
        if number in position:
            raise DataError(f"{where}: two images have this id")
        file = _inside(field(record, "file_name", where), where)
        height, width = (
            whole_number(field(record, side, where), f"{where}: its {side}", 1, MAX_SIDE)
            for side in ("height", "width")
        )
        position[number] = len(found)
        found.append(ImageRecord(number, folder / file, height, width))
    if not found:
        raise DataError(f"{path}: it has no images")
    return found, position


def _inside(file_name: object, where: str) -> str:
    """`file_name` if it is a path that stays below the image folder on every platform."""
    if not isinstance(file_name, str) or not file_name.strip() or "\0" in file_name:
        raise DataError(f"{where}: its file_name is {shown(file_name)}, expected a path below the image folder")
    windows = PureWindowsPath(file_name)
    if PurePosixPath(file_name).is_absolute() or windows.anchor or ".." in windows.parts:
        raise DataError(f"{where}: its file_name {shown(file_name)} leaves the image folder")
    return file_name


def _check_files(images: list[ImageRecord], folder: Path, path: Path) -> None:
    listed: dict[Path, set[str]] = {}
    missing = []
    for record in images:
        parent = record.path.parent
        if parent not in listed:
            try:
                listed[parent] = {entry.name for entry in os.scandir(parent)}
            except OSError:
                listed[parent] = set()
        if record.path.name not in listed[parent]:
            missing.append(f"{record.path.relative_to(folder)} (image {record.image_id})")
    if missing:
        raise DataError(f"{path}: {len(missing)} of {len(images)} pictures are not in {folder}: {some(missing)}")
