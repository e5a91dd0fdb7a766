"""Images with a label map each, of a single channel or coloured: ADE20K, CamVid, Cityscapes, VOC, any two folders."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo, Instance, prompt_name, some
from sam3_hyperet.data.class_names import read_class_names
from sam3_hyperet.data.colors import NO_CLASS, VOC_BORDER, ColorTable, packed_colors, read_colors
from sam3_hyperet.data.image_files import image_size, open_label_image
from sam3_hyperet.data.label_pairs import image_label_pairs, with_same_names
from sam3_hyperet.data.label_values import (
    IGNORE_MARK,
    MAX_VALUE,
    LabelValues,
    check_readings,
    count_values,
    implied_offset,
    is_background,
    is_void,
    value_counts,
)
from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import MAX_SIDE, encode_regions
from sam3_hyperet.override import override

IGNORED = -1
_UNKNOWN = -2
_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
_SEVERAL = ("RGB", "RGBA", "LA")  # channels, of which one is taken where they are the same


@dataclass(frozen=True)
class Encoding:
    """How files become labels. ignore: labels of no class. offset: the label of the first class.

    read: (H, W) labels of a file. size: its width and height. shown: what to call a label that stands for a colour.
    """

    ignore: tuple[int, ...]
    offset: int
    read: Callable[[Path], np.ndarray]
    size: Callable[[Path], tuple[int, int]]
    shown: Mapping[int, str]


class LabelMaps(AnnotatedImages):
    """Images with label maps, opened one by one; made by `read_label_maps`. A category's id is its label − offset.

    objects: of each image, a map that tells the objects of a class apart, as VOC's; without, a class is one region.
    """

    def __init__(
        self,
        name: str,
        categories: Sequence[Category],
        files: Sequence[tuple[Path, Path]],
        encoding: Encoding,
        objects: Sequence[Path] = (),
    ) -> None:
        super().__init__(name, categories)
        self._files, self._encoding, self._objects = list(files), encoding, list(objects)
        self.has_instances = bool(objects)
        self.background = next((category.id for category in self.categories if is_background(category.name)), None)
        self._ids = np.full(MAX_VALUE + 1, _UNKNOWN, np.int32)  # by label
        for category in self.categories:
            self._ids[category.id + encoding.offset] = category.id
        self._ids[list(encoding.ignore)] = IGNORED
        self._shown: dict[int, frozenset[int]] = {}

    def __len__(self) -> int:
        return len(self._files)

    def image(self, i: int) -> ImageInfo:
        """The record of image i: its id is its position, its size that of the label map."""
        i = range(len(self))[i]
        image, label = self._files[i]
        width, height = self._encoding.size(label)
        return ImageInfo(i, image, height, width)

    def files(self, i: int) -> tuple[Path, ...]:
        return (*self._files[i], *([self._objects[i]] if self._objects else ()))

    def unlabelled(self, i: int) -> frozenset[int]:
        """The background, of which no prompt asks."""
        return frozenset() if self.background is None else frozenset([self.background])

    def label_map(self, i: int) -> np.ndarray:
        path = self._files[i][1]
        values = self._encoding.read(path)
        labels: np.ndarray = self._ids[values]
        if (wrong := labels == _UNKNOWN).any():
            raise self._unknown(path, np.unique(values[wrong]))
        return labels

    def instances(self, i: int) -> tuple[Instance, ...]:
        """One region per class that image i shows, but the background, or one per object where they are told apart."""
        classes = self._classes(i)
        if self._objects:
            return _objects(classes, self._objects[i])
        return tuple(Instance(category, rle) for category, rle in zip(*encode_regions(classes), strict=True))

    def present(self, i: int) -> frozenset[int]:
        """Without a mask made, and read once: of few shots, every map is asked several times."""
        i = range(len(self))[i]
        if i not in self._shown:
            self._shown[i] = self._ids_of(i)
        return self._shown[i]

    def _ids_of(self, i: int) -> frozenset[int]:
        if self._objects:
            classes = self._classes(i)
            return frozenset(np.unique(classes[_of_objects(classes, self._objects[i])[1]]).tolist())
        values = np.flatnonzero(value_counts(self._encoding.read(self._files[i][1])))
        ids = self._ids[values]
        if (wrong := ids == _UNKNOWN).any():
            raise self._unknown(self._files[i][1], values[wrong])
        return frozenset(ids.tolist()) - {IGNORED, *self.unlabelled(i)}

    def _classes(self, i: int) -> np.ndarray:
        """The label map without the background."""
        labels = self.label_map(i)
        return np.where(labels == self.background, IGNORED, labels)

    def _unknown(self, path: Path, values: np.ndarray) -> DataError:
        low, high = (self.categories[at].id + self._encoding.offset for at in (0, -1))
        expected = f"{low} to {high}, or {some(self._encoding.ignore)} for no class"
        return DataError(f"{path}: it has the label {some(values)}, expected {expected}")

    def max_instances(self, names: Mapping[int, int]) -> np.ndarray | None:
        return None if self._objects else np.ones(len(self), np.int64)

    @cached_property
    def values(self) -> LabelValues:
        """The values of some label maps, counted when first asked for."""
        encoding = self._encoding
        names = {category.id + encoding.offset: category.name for category in self.categories}
        counts = count_values([label for _, label in self._files], encoding.read)
        return LabelValues(names, encoding.ignore, counts, encoding.shown)

    def value_lines(self, listed: int) -> list[str]:
        return self.values.lines(listed)

    @property
    def counts(self) -> Mapping[int, int] | None:  # type: ignore[override]
        """Label maps that show each class, of those that can be read; None where not all were looked at."""
        counts = self.values.counts
        if counts.looked_at < counts.total:
            return None
        return {value - self._encoding.offset: n for value, n in counts.maps.items() if value in self.values.names}


def read_label_maps(
    images: Path | str,
    labels: Path | str,
    names: Sequence[str] | Path | str = "",
    *,
    ignore: int | Sequence[int] = 255,
    offset: int | None = None,
    colors: Mapping[str, object] | Path | None = None,
    objects: Path | None = None,
    void_classes: bool = False,
    name: str = "label maps",
    image_ending: str | None = None,
    label_ending: str | None = None,
    listed: Path | str | None = None,
) -> LabelMaps:
    """Pair the images below `images` with the label maps below `labels` by their path without the ending.

    names: one per class, in the order of their labels, or a file of them (see `class_names`); after a comma, synonyms.
        An underscore is read as a space. A name at an ignored label, or that ends in "(ignore)", is no category; of a
        class "background", whose pixels count, no prompt asks.
    ignore: the label or labels of pixels without a class. offset: the label of the first class; None: what the names'
        file says or the ignored labels imply, else 0, which the labels must then not contradict.
    colors: of coloured label maps, the names and colours (see `read_colors`), in place of names, ignore and offset.
    void_classes: take classes called "void", "unlabelled" and the like for classes, not for pixels without one.
    objects: the folder of maps that tell the objects of a class apart: 0, black or a colour of VOC's border for none.
    image_ending, label_ending: what to strip to pair files, e.g. "_leftImg8bit.png" with "_gtFine_labelTrainIds.png";
        other files are then passed over. By default any image's suffix, and any label map's.
    listed: a text file of the images to take, one path without the ending a line; by default all are.
    Raises DataError: a folder or partner is missing; labels that are no class, or fit the names in two ways; of one
    image, a label map of several channels.
    """
    pairs = image_label_pairs(Path(images), Path(labels), image_ending, label_ending, listed)
    files = list(pairs.values())
    maps = with_same_names(pairs, objects, label_ending) if objects else []
    if colors is not None:
        table = read_colors(colors)
        of_none = [] if void_classes else _void(table.names)
        categories, encoding = _of_colors(table, of_none)
        found = LabelMaps(name, categories, files, encoding, maps)
        if found.values.counts.faults:
            raise DataError(found.values.counts.faults[0])
        found.values.check_present(Path(labels))
        found.remarks = (*table.remarks, *_void_remarks([table.names[at] for at in of_none]))
        return found
    if names == "":
        counts = count_values([label for _, label in files], read_label_values)
        there = some([f"{value} {counts.fraction(value)}" for value in sorted(counts.pixels)], 12) or "nowhere"
        car = override("data.colors", {"background": 0, "car": 255})
        hint = f"; if 255 is a car: {car}" if set(counts.pixels) == {0, 255} else ""
        raise DataError(
            f"{labels}: nothing names the classes: data.names is empty; expected names, their file below data.root, or "
            f"data.colors; found labels {there}{hint}{'; ' + counts.faults[0] if counts.faults else ''}"
        )
    source, classes, numbered_from, left_out = _listed(names)
    if not classes:
        raise DataError(f"{source}: it has no names")
    ignored = (ignore,) if isinstance(ignore, int) else tuple(ignore)
    stated = numbered_from if offset is None else offset
    stated = implied_offset(classes, ignored) if stated is None else stated
    first = stated or 0
    marked = [first + number for number, line in enumerate(classes) if line.rstrip().endswith(IGNORE_MARK)]
    ignored = tuple(dict.fromkeys((*ignored, *marked)))
    of_none = [] if void_classes else [at for at in _void(classes) if first + at not in ignored]
    if wrong := [value for value in (first, first + len(classes) - 1, *ignored) if not 0 <= value <= MAX_VALUE]:
        stated_as = f"data.offset={first}, data.ignore={some(ignored)}"
        raise DataError(f"{source}: {stated_as} give the label {wrong[0]}; expected 0 to {MAX_VALUE}")
    categories = label_categories(classes, {*(label - first for label in ignored), *of_none}, source)
    labels_of_none = (*ignored, *(first + at for at in of_none))
    encoding = Encoding(labels_of_none, first, read_label_values, _label_size, {})
    found = LabelMaps(name, categories, files, encoding, maps)
    taken = check_readings(found.values.counts, classes, first if marked else stated, ignored, Path(labels), "data.")
    found.values.check_present(Path(labels))
    lost = [f"{line} ({first + at})" for at, line in enumerate(classes) if first + at in ignored and not is_void(line)]
    found.remarks = (*taken, *([f"warning: classes at ignored values, so none: {some(lost)}"] if lost else ()))
    found.remarks += _void_remarks([f"{classes[at]} ({first + at})" for at in of_none])
    found.adjusted += left_out
    return found


def _void(names: Sequence[str]) -> list[int]:
    """Positions of names that say that their pixels have no class."""
    words = [name.partition(",")[0] for name in names]
    return [at for at, word in enumerate(words) if is_void(word) and not is_background(word)]


def _void_remarks(names: Sequence[str]) -> tuple[str, ...]:
    remedy = "data.void_classes=true makes them classes, the name background what all others leave"
    return (f"no class by its name, so not asked for and not scored: {some(names)}; {remedy}",) if names else ()


def _of_colors(table: ColorTable, void: Sequence[int]) -> tuple[list[Category], Encoding]:
    """Categories and encoding of a table of colours, whose positions are the labels; of those in `void`, none."""
    names = [name.replace(",", " ") for name in table.names]
    categories = label_categories(names, void, table.source)
    border = [] if VOC_BORDER in table.colors else [NO_CLASS]
    return categories, Encoding(
        (*void, *border), 0, table.read, image_size, table.shown | {NO_CLASS: "of VOC's border"}
    )


def _listed(names: Sequence[str] | Path | str) -> tuple[str, Sequence[str], int | None, Counter[str]]:
    """Where names come from, for messages, and what `read_class_names` returns."""
    if isinstance(names, str | Path):
        return str(names), *read_class_names(Path(names))
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str):
            raise DataError(f"names: name {number} is {name!r}, expected text")
    return "names", names, None, Counter()


def label_categories(names: Sequence[str], ignored: Collection[int], source: str) -> list[Category]:
    """Categories 0, 1, … from names, without those at the positions `ignored`."""
    found: dict[str, Category] = {}
    for number, line in enumerate(names):
        where = f"{source}: name {number + 1}"
        word, *synonyms = (prompt_name(part, where) for part in line.split(","))
        if number in ignored:
            continue
        if other := found.get(word.lower()):
            raise DataError(f"{where} is {word!r}, as name {other.id + 1} is")
        found[word.lower()] = Category(number, word, tuple(synonyms))
    if not found:
        raise DataError(f"{source}: it has no names")
    return list(found.values())


def _objects(classes: np.ndarray, path: Path) -> tuple[Instance, ...]:
    """An instance for each value of a map of objects and class under it. Raises DataError."""
    numbers, there = _of_objects(classes, path)
    regions = np.where(there, classes.astype(np.int64) << 24 | numbers, IGNORED)
    return tuple(Instance(one >> 24, rle) for one, rle in zip(*encode_regions(regions), strict=True))


def _object_numbers(path: Path) -> np.ndarray:
    """(H, W), 0 for none: the values of a grey map, of up to 16 bits, or of a coloured one its colours."""
    with open_label_image(path) as image:
        is_grey = image.mode in _MODES and image.mode != "P"
    return read_label_values(path) if is_grey else packed_colors(path)


def _of_objects(classes: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The values of a map of objects, and where there is one with a class. Raises DataError."""
    numbers = _object_numbers(path)
    if numbers.shape != classes.shape:
        sizes = ["x".join(map(str, one.shape[::-1])) for one in (numbers, classes)]
        raise DataError(f"{path}: it is {sizes[0]} pixels, its label map {sizes[1]}")
    return numbers, (classes != IGNORED) & (numbers != 0)


@contextmanager
def _open_label(path: Path) -> Iterator[Image.Image]:
    with open_label_image(path) as image:
        if image.mode not in _MODES and image.mode not in _SEVERAL:
            raise DataError(f"{path}: found {image.mode} pixels, expected a label map of a single channel")
        if max(image.size) > MAX_SIDE:
            raise DataError(f"{path}: it is {image.width}x{image.height} pixels, expected at most {MAX_SIDE} a side")
        yield image


def _label_size(path: Path) -> tuple[int, int]:
    with _open_label(path) as image:
        size, mode = image.size, image.mode
    if mode in _SEVERAL:
        read_label_values(path)  # for its DataError
    return size


def read_label_values(path: Path) -> np.ndarray:
    """(H, W) labels, uint8 or uint16; a palette's indices, not its colours; of three channels that are the same, one.

    Raises DataError naming the file.
    """
    with _open_label(path) as image:
        values, mode = np.asarray(image), image.mode
    if mode in _SEVERAL:
        grey = values[..., 0]
        if mode != "LA" and any((values[..., channel] != grey).any() for channel in (1, 2)):
            raise DataError(
                f"{path}: found {mode} pixels, expected a label map of a single channel; if its colours are classes, "
                "name them by data.colors"
            )
        values = grey
    if values.size and (values.min() < 0 or values.max() > MAX_VALUE):
        raise DataError(f"{path}: it has labels from {values.min()} to {values.max()}, expected 0 to {MAX_VALUE}")
    return values.astype(np.uint8 if values.itemsize == 1 else np.uint16)
