"""A COCO file's content: of a large one, the usual annotations are decoded and checked by the hundred.

An annotation is usual if `AnnotationTable.add` finds nothing wrong and nothing to repair in it: polygons alone, a box
and an area that can be. So all that is said and counted of annotations has its one place there. (A key that a usual
annotation of a large file has twice is not noticed.)
"""

import math
import mmap
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import numpy as np

from sam3_hyperet.data.annotations import records
from sam3_hyperet.data.coco_annotations import AnnotationTable
from sam3_hyperet.data.coco_records import Id, id_key
from sam3_hyperet.errors import DataError
from sam3_hyperet.reading import parse_json, read_json

LARGE = 20 * 2**20  # bytes
_AT_ONCE = 512  # records: what is decoded fits the processor's cache
_BLOCK = 2**24  # bytes
_NO_BOX = (math.nan,) * 4
_ONCE = (b'"images"', b'"categories"', b'"annotations"')
_NEVER = (b'"noun_phrase"', b'"text_input"')  # `phrases` needs the file as a whole
_BLANK = msgspec.Raw(b"")
_Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


def is_large(path: Path) -> bool:
    """Whether a file is not read as a whole, and has an index."""
    return os.path.isfile(path) and path.stat().st_size >= LARGE


class _Content(msgspec.Struct):
    images: msgspec.Raw
    categories: msgspec.Raw
    annotations: list[msgspec.Raw]


class _Reference(msgspec.Struct):
    category_id: Any = None


class _RunLengths(msgspec.Struct):
    """An object, whose keys are skipped."""


class _Usual(msgspec.Struct, gc=False):
    id: _Id
    image_id: _Id
    category_id: _Id
    segmentation: list[list[float]] | _RunLengths
    bbox: tuple[float, float, float, float] = _NO_BOX
    area: float = math.nan
    iscrowd: int | bool = 0
    ignore: int | bool = 0


_MANY, _ONE = msgspec.json.Decoder(list[_Usual]), msgspec.json.Decoder(_Usual)


class CocoJson:
    """A COCO file: `content`, by key, and the annotations, which go into a table.

    Of a small file, and of one that msgspec does not take (`NaN`, a missing list, …), `content` is all, to be checked;
    of others the lists `images` and `categories`. Raises DataError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped, self._raw = _raw_content(path)
        self.content: Any = None
        if self._raw is not None:
            try:
                self.content = {"images": _parsed(self._raw.images), "categories": _parsed(self._raw.categories)}
            except ValueError:
                self._raw = None
        if self._raw is None:
            self.content = read_json(path)

    def used_categories(self) -> set[Id | None]:
        """The category ids of all annotations, none where the file has no list of them. Raises DataError."""
        if self._raw is None and "annotations" not in self.content:
            return set()
        if self._raw is None:
            found = (record.get("category_id") for _, record in records(self.content, "annotations", self.path))
        else:
            found = (msgspec.json.decode(raw, type=_Reference).category_id for raw in self._raw.annotations)
        try:
            return {id_key(value) for value in found}
        except msgspec.ValidationError as error:
            raise DataError(f"{self.path}: an annotation is no object ({error})") from None

    def add_annotations(self, table: AnnotationTable) -> None:
        """Add every annotation, in the file's order. Raises DataError."""
        if self._raw is None:
            for where, record in records(self.content, "annotations", self.path):
                table.add(record, where)
            return
        assert self._mapped is not None  # what `_raw` is a view of
        self.content, raw, done = None, self._raw.annotations, 0
        for first in range(0, len(raw), _AT_ONCE):
            chunk = raw[first : first + _AT_ONCE]
            text = b"[" + b",".join(chunk) + b"]"
            try:
                if not text.isascii():
                    text.decode()  # msgspec does not look at texts that it skips
            except UnicodeDecodeError as error:
                self._refuse(error)
            self._add(table, chunk, first, _decoded(chunk, text))
            done += len(text)
            if done > _BLOCK:
                self._mapped.madvise(mmap.MADV_DONTNEED)  # what was read no longer counts as this process's memory
                done = 0
            raw[first : first + _AT_ONCE] = [_BLANK] * len(chunk)

    def _add(
        self, table: AnnotationTable, chunk: Sequence[msgspec.Raw], first: int, found: Sequence[_Usual | None]
    ) -> None:
        usual = _UsualRecords(found, table)
        start = 0
        for stop in (*np.flatnonzero(~usual.mask).tolist(), len(chunk)):
            if not usual.add(start, stop):
                self._add_singly(table, chunk[start:stop], first + start)  # an id is there twice
            if stop < len(chunk):
                self._add_singly(table, chunk[stop : stop + 1], first + stop)
            start = stop + 1

    def _add_singly(self, table: AnnotationTable, chunk: Sequence[msgspec.Raw], first: int) -> None:
        try:
            found = [_parsed(raw) for raw in chunk]
        except ValueError as error:
            self._refuse(error)
        for where, record in records({"annotations": found}, "annotations", self.path, first):
            table.add(record, where)

    def _refuse(self, error: ValueError) -> NoReturn:
        read_json(self.path)  # raises, in the words for any file
        raise DataError(f"{self.path}: not valid JSON ({error})")


class _UsualRecords:
    """Decoded records in arrays. mask: (n,) which are usual."""

    def __init__(self, found: Sequence[_Usual | None], table: AnnotationTable) -> None:
        self._table = table
        blank = _Usual(0, -1, -1, [])
        every = [blank if one is None else one for one in found]
        position, names = table.position, table.categories
        self._ids = [one.id for one in every]
        images = np.array([position.get(one.image_id, -1) for one in every], np.int64)
        categories = np.array([one.category_id if one.category_id in names else -1 for one in every], np.int64)
        crowd = np.array([one.iscrowd if one.iscrowd in (0, 1) and not one.ignore else -1 for one in every], np.int64)
        self._rows = np.stack([self._ids, images, categories, crowd], axis=1)
        boxes = chain.from_iterable((*one.bbox, one.area) for one in every)
        self._stated = np.fromiter(boxes, np.float64, count=5 * len(every)).reshape(-1, 5)
        self._outlines = [one.segmentation if isinstance(one.segmentation, list) else [] for one in every]
        height, width = table.sizes[images].T
        x, y, w, h, area = self._stated.T
        inside = (np.abs(x) <= width) & (np.abs(y) <= height) & (w > 0) & (w <= 2 * width) & (h > 0) & (h <= 2 * height)
        sized = ((area > 0) & (area <= height * width)) | np.isnan(area)
        drawn = np.array([_is_usual(outline) for outline in self._outlines], bool)
        self.mask = drawn & (self._rows >= 0).all(axis=1) & (inside | np.isnan(x)) & sized

    def add(self, start: int, stop: int) -> bool:
        """Add the records of a range, all usual, to the table; False if one's id is there already."""
        ids = set(self._ids[start:stop])
        if len(ids) < stop - start or not self._table.seen.keys().isdisjoint(ids):
            return False
        if ids:
            self._table.add_usual(self._rows[start:stop], self._stated[start:stop], self._outlines[start:stop])
        return True


def _is_usual(outline: list[list[float]]) -> bool:
    return bool(outline) and all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in outline)


def _decoded(chunk: Sequence[msgspec.Raw], text: bytes) -> Sequence[_Usual | None]:
    """The records; None for one of another kind."""
    try:
        return _MANY.decode(text)
    except msgspec.ValidationError:
        return [_decoded_one(raw) for raw in chunk]


def _decoded_one(raw: msgspec.Raw) -> _Usual | None:
    try:
        return _ONE.decode(raw)
    except msgspec.ValidationError:
        return None


def _parsed(raw: msgspec.Raw) -> Any:
    return parse_json(bytes(raw).decode())


def _raw_content(path: Path) -> tuple[mmap.mmap | None, _Content | None]:
    """A large file mapped into memory, and its lists; None where it is to be read as a whole."""
    try:
        if not is_large(path):
            return None, None
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        counts = _counts(mapped)
        if any(counts[key] != 1 for key in _ONCE) or any(counts[key] for key in _NEVER):
            return None, None
        content = msgspec.json.decode(mapped, type=_Content)
        mapped.madvise(mmap.MADV_DONTNEED)
        return mapped, content
    except (OSError, ValueError, RecursionError, msgspec.DecodeError):  # `read_json` says what is wrong, if it is
        return None, None


def _counts(mapped: mmap.mmap) -> Mapping[bytes, int]:
    """How often each of the keys is in the file."""
    counts = dict.fromkeys((*_ONCE, *_NEVER), 0)
    for start in range(0, len(mapped), _BLOCK):
        block = mapped[start : start + _BLOCK + 32]
        for key in counts:
            counts[key] += block.count(key, 0, _BLOCK + len(key) - 1)
    return counts
