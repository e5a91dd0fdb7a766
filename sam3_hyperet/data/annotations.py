"""What every reader returns: categories, images with their instances, and a count of what was left out."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam3_hyperet import masks
from sam3_hyperet.data.finding import composed
from sam3_hyperet.data.image_files import image_size, read_image
from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import Rle
from sam3_hyperet.wording import count_of

GRANULARITIES = ("part", "object", "group")
MAX_NAME = 200  # characters; SAM 3 reads 32 tokens of a prompt and silently drops the rest
MAX_CATEGORY_ID = 2**62  # there are ids beyond those of the files, of absent concepts for one


@dataclass(frozen=True)
class Category:
    """A concept to prompt; `parents` are ids, of categories or of concepts above all, whose name is `supercategory`.

    part, whole: of a category that is a part of an object, such as "wheel of a car", the part's and the object's names.
    """

    id: int
    name: str
    synonyms: tuple[str, ...] = ()
    granularity: str = "object"
    parents: tuple[int, ...] = ()
    supercategory: str = ""
    part: str = ""
    whole: str = ""


@dataclass(frozen=True)
class Instance:
    """One annotated region: a compressed COCO RLE at the image's full size. A crowd is many, not told apart.

    `stated_box` and `stated_area`, in pixels, are the annotation file's, by which AP counts; None: the mask's.
    `is_boxed`: there is no mask; `rle` is the box's.
    """

    category_id: int
    rle: Rle
    crowd: bool = False
    id: int = -1
    stated_box: tuple[float, ...] | None = None
    stated_area: float | None = None
    is_boxed: bool = False

    @property
    def box(self) -> tuple[float, ...]:
        """COCO's [x, y, width, height]."""
        return masks.box(self.rle) if self.stated_box is None else self.stated_box

    @property
    def area(self) -> float:
        """Pixels, by which COCO tells small, medium and large apart."""
        return masks.area(self.rle) if self.stated_area is None else self.stated_area


@dataclass(frozen=True)
class ImageInfo:
    """An image as its annotations describe it; `image_id` is the data set's own id."""

    image_id: int
    path: Path
    height: int
    width: int


class AnnotatedImages:
    """Annotated images, by position 0 … len − 1.

    dropped: by reason, how many annotations were left out. adjusted: those kept after a harmless repair.
    crowds: how many annotations are crowds. rectangles: how many are outlined by their own box.
    boxed: how many are boxes without a mask, of which the box alone is learnt.
    counts: annotations of each category id that has any, crowds included, in all images of the file; of a large
        label-map set None.
    stated_absent: ids of the categories that some image is said not to show.
    remarks: sentences about the files, which are printed with the summary.
    has_instances: whether the regions are single objects, to be scored by AP; those of a label map are whole classes.
    background: id of the category that is what all others leave, of which no prompt asks.
    left_out: names and synonyms, in lower case, of categories of the files that are not among these.
    is_upright: whether EXIF orientation is applied; COCO's, ADE20K's and CamVid's annotations are of the stored pixels.
    """

    counts: Mapping[int, int] | None = None
    stated_absent: frozenset[int] = frozenset()
    remarks: tuple[str, ...] = ()
    background: int | None = None
    left_out: frozenset[str] = frozenset()
    has_instances = True

    def __init__(self, name: str, categories: Iterable[Category]) -> None:
        self.name, self.categories = name, tuple(categories)
        self.dropped, self.adjusted = Counter[str](), Counter[str]()
        self.crowds, self.rectangles, self.boxed, self.is_upright = 0, 0, 0, False

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def unannotated(self) -> frozenset[int]:
        """Ids of the categories without a single annotation."""
        ids = frozenset(category.id for category in self.categories)
        return frozenset() if self.counts is None else ids - self.counts.keys()

    @property
    def never_absent(self) -> frozenset[int]:
        """Ids of the categories that any image may show: none has an annotation, and none is said not to show them."""
        return self.unannotated - self.stated_absent

    @property
    def counted(self) -> int:
        """Number of images that `counts` and what was dropped or repaired are of; these may be some of them."""
        return len(self)

    def image(self, i: int) -> ImageInfo:
        """The record of image i."""
        raise NotImplementedError

    def instances(self, i: int) -> tuple[Instance, ...]:
        """The annotated regions of image i, crowds included."""
        raise NotImplementedError

    def label_map(self, i: int) -> np.ndarray | None:
        """(H, W) category id of every pixel, `label_maps.IGNORED` for none; None where a data set has no label maps."""
        return None

    def value_lines(self, listed: int) -> list[str]:
        """Of label maps, what the values mean and how many pixels have each; so many classes are listed in a line."""
        return []

    def files(self, i: int) -> tuple[Path, ...]:
        """The image's file, and its label map's where it has one."""
        return (self.image(i).path,)

    def present(self, i: int) -> frozenset[int]:
        """Ids of the categories of which image i shows an instance, crowds aside."""
        return frozenset(one.category_id for one in self.instances(i) if not one.crowd)

    def max_instances(self, names: Mapping[int, int]) -> np.ndarray | None:
        """The largest number of instances of one name in each image, (N,).

        names: by the id of each category that counts, its name as a number; what has the same number counts as one.
        Crowds are no instances. None: not known without opening the images.
        """
        return None

    def crowd_only(self, i: int) -> frozenset[int]:
        """Ids of the categories that image i shows only as crowds, as far as known without opening it."""
        return frozenset()

    def unlabelled(self, i: int) -> frozenset[int]:
        """Ids of the categories of which nothing is known in image i: its annotations of them were all dropped."""
        return frozenset()

    def not_exhaustive(self, i: int) -> frozenset[int]:
        """Ids of the categories of which image i may show more instances than are annotated."""
        return frozenset()

    def load_image(self, i: int) -> Image.Image:
        """Image i in RGB. Raises DataError if it cannot be read or its size is not the record's."""
        record = self.image(i)
        return read_image(record.path, upright=self.is_upright, check=partial(self._check_size, record))

    def check_header(self, i: int) -> None:
        """Raise the DataError of `load_image`, as far as the beginning of the file tells."""
        record = self.image(i)
        self._check_size(record, *image_size(record.path, upright=self.is_upright))

    def _check_size(self, record: ImageInfo, width: int, height: int) -> None:
        if (width, height) != (record.width, record.height):
            turned = (height, width) == (record.width, record.height)
            other = "ignore" if self.is_upright else "apply"
            remedy = f"; expected data.exif={other} (in predict: exif={other}), if EXIF turns it"
            raise DataError(
                f"{record.path}: image {record.image_id} is {width}x{height} pixels, its annotations are for "
                f"{record.width}x{record.height}{remedy if turned else ''}"
            )

    def summary(self) -> str:
        """One line: how many images and categories, and what was left out or repaired, and why."""
        images = count_of(len(self), "image")
        if self.counted != len(self):
            images = f"{len(self):,} of {count_of(self.counted, 'image')}"
        line = f"{self.name}: {images}, {count_of(len(self.categories), 'category')}"
        if self.crowds:
            line += f"; {self.crowds} of {sum((self.counts or {}).values())} annotations are crowds"
        for verb, counts in (("dropped", self.dropped), ("repaired", self.adjusted)):
            if counts:
                line += f"; {verb} " + ", ".join(f"{n} × {reason}" for reason, n in sorted(counts.items()))
        return line


def whole_number(value: object, where: str, low: int = 0, high: int = 2**63 - 1) -> int:
    """`value` if it is an integer in [low, high]; DataError beginning with `where` if not."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{where} is {shown(value)}, expected a whole number")
    if not low <= value <= high:
        raise DataError(f"{where} is {value}, expected {low} to {high}")
    return value


def read_category(record: Mapping[str, Any], where: str, kind: str) -> tuple[Category, str]:
    """A record's id, name, synonyms and granularity, checked, and the words an error about it begins with."""
    number = category_id(field(record, "id", where), f"{where}: its id")
    where = f"{kind} {number}"
    name = prompt_name(field(record, "name", where), f"{where}: its name")
    synonyms, granularity = record.get("synonyms", []), record.get("granularity", "object")
    if not isinstance(synonyms, list):
        raise DataError(f"{where}: its synonyms are {shown(synonyms)}, expected a list of names")
    if granularity not in GRANULARITIES:
        raise DataError(f"{where}: its granularity is {shown(granularity)}, expected {', '.join(GRANULARITIES)}")
    words = tuple(prompt_name(word, f"{where}: a synonym") for word in synonyms)
    return Category(number, name, words, granularity), where


def category_id(value: object, where: str) -> int:
    """A category id, with room for more above it."""
    return whole_number(value, where, 0, MAX_CATEGORY_ID)


def prompt_name(value: object, where: str) -> str:
    """`value` as a prompt, underscores read as spaces; DataError beginning with `where` if it cannot be one."""
    if not isinstance(value, str):
        raise DataError(f"{where} is {shown(value)}, expected text")
    name = spoken(value)
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise DataError(f"{where} is {shown(value)}, expected 1 to {MAX_NAME} printable characters")
    return name


def spoken(name: str) -> str:
    """A category's name as every reader and option takes it: underscores are spaces, one at a time."""
    return " ".join(word for word in composed(name).replace("_", " ").strip().split(" ") if word)


def same_prompts(names: Iterable[str], known: Iterable[str] = ()) -> dict[str, str]:
    """The prompt that each name is: that of the known ones, else of the first, which differs in case and underscores
    alone."""
    by_key = {spoken(name).lower(): name for name in reversed(list(known))}
    return {name: by_key.setdefault(spoken(name).lower(), spoken(name) or name) for name in names}


def records(content: Any, key: str, path: Path, first: int = 0) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each object of the list content[key] of a JSON file, with the words an error about it begins with.

    first: how many objects of the file came before the list's.
    """
    if key not in content:
        found = ", ".join(map(shown, list(content)[:8])) or "none"
        raise DataError(f"{path}: the key {key!r} is missing; found {found}")
    listed = content[key]
    if not isinstance(listed, list):
        raise DataError(f"{path}: {key} is {shown(listed)}, expected a list")
    for position, record in enumerate(listed, first):
        where = f"{path}: {key}[{position}]"
        if not isinstance(record, dict):
            raise DataError(f"{where} is {shown(record)}, expected an object")
        yield where, record


def field(record: Mapping[str, Any], key: str, where: str) -> Any:
    """record[key], or a DataError that says it is missing."""
    if key not in record:
        raise DataError(f"{where}: the key {key!r} is missing")
    return record[key]


def shown(value: object) -> str:
    """`value` as an error message quotes it: one short line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(error: BaseException) -> str:
    """An exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def some(items: Iterable[object], most: int = 3) -> str:
    """The first few of `items`, for an error message."""
    listed = [text if len(text := str(item)) <= 120 else f"{text[:117]}..." for item in items]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
