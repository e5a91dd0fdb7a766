"""Images with a label map each: ADE20K, CamVid, Cityscapes, any folder of single-channel images and a list of names."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo, Instance, prompt_name, some
from sam3_hyperet.data.class_names import read_class_names, text_lines
from sam3_hyperet.data.finding import IMAGE_ENDINGS, LABEL_ENDINGS, composed, find_by_stem
from sam3_hyperet.data.image_files import open_label_image
from sam3_hyperet.data.label_values import (
    IGNORE_MARK,
    MAX_VALUE,
    LabelValues,
    check_readings,
    count_values,
    implied_offset,
)
from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import MAX_SIDE, encode_masks

IGNORED = -1
_UNKNOWN = -2
_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


class LabelMaps(AnnotatedImages):
    """Images with label maps, opened one by one; made by `read_label_maps`. A category's id is its label − offset."""

    has_instances = False

    def __init__(
        self,
        name: str,
        categories: Sequence[Category],
        files: Sequence[tuple[Path, Path]],
        *,
        ignore: Sequence[int],
        offset: int,
        read: Callable[[Path], np.ndarray],
    ) -> None:
        super().__init__(name, categories)
        self._files, self._ignore, self._offset, self._read = list(files), tuple(ignore), offset, read
        self._ids = np.full(MAX_VALUE + 1, _UNKNOWN, np.int32)  # by value
        for category in self.categories:
            self._ids[category.id + offset] = category.id
        self._ids[list(ignore)] = IGNORED

    def __len__(self) -> int:
        return len(self._files)

    def image(self, i: int) -> ImageInfo:
        """The record of image i: its id is its position, its size that of the label map."""
        i = range(len(self))[i]
        image, label = self._files[i]
        with _open_label(label) as opened:
            width, height = opened.size
        return ImageInfo(i, image, height, width)

    def files(self, i: int) -> tuple[Path, ...]:
        return self._files[i]

    def label_map(self, i: int) -> np.ndarray:
        path = self._files[i][1]
        values = self._read(path)
        labels = self._ids[values]
        if (wrong := labels == _UNKNOWN).any():
            low, high = (self.categories[at].id + self._offset for at in (0, -1))
            expected = f"{low} to {high}, or {some(self._ignore)} for no class"
            raise DataError(f"{path}: it has the label {some(np.unique(values[wrong]))}, expected {expected}")
        return labels

    def instances(self, i: int) -> tuple[Instance, ...]:
        """One region per class that image i shows."""
        labels = self.label_map(i)
        shown_here = np.flatnonzero(np.bincount(labels.ravel() - IGNORED)[-IGNORED:])
        rles = encode_masks(labels == shown_here[:, None, None])
        return tuple(Instance(category, rle) for category, rle in zip(shown_here.tolist(), rles, strict=True))

    @cached_property
    def values(self) -> LabelValues:
        """The values of some label maps, counted when first asked for."""
        names = {category.id + self._offset: category.name for category in self.categories}
        return LabelValues(names, self._ignore, count_values([label for _, label in self._files], self._read))

    def value_lines(self, listed: int) -> list[str]:
        return self.values.lines(listed)

    @property
    def counts(self) -> Mapping[int, int] | None:  # type: ignore[override]
        """Label maps that show each class, of those that can be read; None where not all were looked at."""
        counts = self.values.counts
        if counts.looked_at < counts.total:
            return None
        return {value - self._offset: n for value, n in counts.maps.items() if value in self.values.names}


def read_label_maps(
    images: Path | str,
    labels: Path | str,
    names: Sequence[str] | Path | str,
    *,
    ignore: int | Sequence[int],
    offset: int | None = None,
    name: str = "label maps",
    image_ending: str | None = None,
    label_ending: str | None = None,
    listed: Path | str | None = None,
) -> LabelMaps:
    """Pair the images below `images` with the label maps below `labels` by their path without the ending.

    names: one per class, in the order of their labels, or a text file with one a line; after a comma, synonyms. An
        underscore is read as a space. A name at the ignored label is no category.
    ignore: the label or labels of pixels without a class. offset: the label of the first class; None: what the ignored
        labels imply, else 0, which the labels must then not contradict.
    image_ending, label_ending: what to strip to pair files, e.g. "_leftImg8bit.png" with "_gtFine_labelTrainIds.png";
        other files are then passed over. By default any image's suffix, and any label map's.
    listed: a text file of the images to take, one path without the ending a line; by default all are.
    Raises DataError: a folder or partner is missing; labels that are no class, or fit the names in two ways; of one
    image, a label map of several channels.
    """
    folder, label_folder = Path(images), Path(labels)
    images_by_stem = find_by_stem(folder, (image_ending,) if image_ending else IMAGE_ENDINGS)
    maps = find_by_stem(label_folder, (label_ending,) if label_ending else LABEL_ENDINGS)
    if listed is not None:
        images_by_stem = _only_listed(Path(listed), images_by_stem, folder)
        maps = _only_listed(Path(listed), maps, label_folder)
    image_alone = (images_by_stem, maps, "images without a label map in", label_folder)
    map_alone = (maps, images_by_stem, "label maps without an image in", folder)
    for these, others, what, where in (image_alone, map_alone):
        if alone := sorted(these.keys() - others.keys()):
            unpaired = sorted(others.keys() - these.keys())
            remedy = _endings(images_by_stem, maps) if unpaired else ""
            raise DataError(f"{these[alone[0]].parent}: {len(alone)} {what} {where}: {some(alone)}{remedy}")
    files = [(images_by_stem[stem], maps[stem]) for stem in sorted(images_by_stem)]
    source, classes, numbered_from, left_out = _listed(names)
    if not classes:
        raise DataError(f"{source}: it has no names")
    ignored = (ignore,) if isinstance(ignore, int) else tuple(ignore)
    stated = numbered_from if offset is None else offset
    stated = implied_offset(classes, ignored) if stated is None else stated
    first = stated or 0
    marked = [first + number for number, line in enumerate(classes) if line.rstrip().endswith(IGNORE_MARK)]
    ignored = tuple(dict.fromkeys((*ignored, *marked)))
    if wrong := [value for value in (first, first + len(classes) - 1, *ignored) if not 0 <= value <= MAX_VALUE]:
        stated_as = f"data.offset={first}, data.ignore={some(ignored)}"
        raise DataError(f"{source}: {stated_as} give the label {wrong[0]}; expected 0 to {MAX_VALUE}")
    categories = label_categories(classes, {label - first for label in ignored}, source)
    found = LabelMaps(name, categories, files, ignore=ignored, offset=first, read=read_label_values)
    counts = found.values.counts
    check_readings(counts, classes, first if marked else stated, ignored, label_folder, "data.")
    if counts.pixels and not counts.pixels.keys() - set(ignored):
        raise DataError(
            f"{label_folder}: no pixel of {counts.where} has a class; found {some(sorted(counts.pixels))} alone, which "
            f"is ignored (data.ignore={some(ignored)})"
        )
    found.adjusted += left_out
    return found


def _endings(images: Collection[str], maps: Collection[str]) -> str:
    """What to say where files are paired by other names than their own."""
    for option, stems, others in (("label", maps, images), ("image", images, maps)):
        ends = {stem[len(other) :] for other in others for stem in stems if stem.startswith(other)}
        for end in sorted(ends - {""}):
            if {stem.removesuffix(end) for stem in stems} == set(others):
                return f"; if all of them end in {end!r} before the suffix: data.{option}_ending={end}.png"
    return f"; there are {some(sorted(maps))} for {some(sorted(images))}"


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


def _only_listed(path: Path, files: dict[str, Path], folder: Path) -> dict[str, Path]:
    stems = [composed(line.strip()) for line in text_lines(path)]
    if not stems or len(set(stems)) != len(stems):
        raise DataError(f"{path}: {len(stems)} images are listed, {len(set(stems))} different ones")
    if missing := [stem for stem in stems if stem not in files]:
        raise DataError(f"{path}: {len(missing)} of {len(stems)} listed images are not in {folder}: {some(missing)}")
    return {stem: files[stem] for stem in stems}


@contextmanager
def _open_label(path: Path) -> Iterator[Image.Image]:
    with open_label_image(path) as image:
        if image.mode not in _MODES:
            raise DataError(f"{path}: found {image.mode} pixels, expected a label map of a single channel")
        if max(image.size) > MAX_SIDE:
            raise DataError(f"{path}: it is {image.width}x{image.height} pixels, expected at most {MAX_SIDE} a side")
        yield image


def read_label_values(path: Path) -> np.ndarray:
    """(H, W) int64 labels; a palette's indices, not its colours. Raises DataError naming the file."""
    with _open_label(path) as image:
        values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > MAX_VALUE):
        raise DataError(f"{path}: it has labels from {values.min()} to {values.max()}, expected 0 to {MAX_VALUE}")
    return values
