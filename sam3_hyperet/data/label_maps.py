"""Images with a label map each: ADE20K, CamVid, Cityscapes, any folder of single-channel images and a list of names."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo, Instance, one_line, prompt_name, some
from sam3_hyperet.data.finding import IMAGE_ENDINGS, LABEL_ENDINGS, composed, find_by_stem
from sam3_hyperet.errors import DataError
from sam3_hyperet.files import read_text
from sam3_hyperet.masks import MAX_SIDE, encode_masks

IGNORED = -1
COUNTED = 1000  # label maps that are opened to see which classes occur; larger sets are not
_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


class LabelMaps(AnnotatedImages):
    """Images with label maps, opened one by one; made by `read_label_maps`. A category's id is its label − offset."""

    def __init__(
        self, name: str, categories: Sequence[Category], files: Sequence[tuple[Path, Path]], *, ignore: int, offset: int
    ) -> None:
        super().__init__(name, categories)
        self._files, self._ignore, self._offset = list(files), ignore, offset
        self._known = np.asarray(sorted(category.id for category in self.categories))

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
        labels = read_label_values(path)
        found = np.unique(labels)
        wrong = found[(found != self._ignore) & ~np.isin(found - self._offset, self._known)]
        if len(wrong):
            low, high = self._known[[0, -1]] + self._offset
            expected = f"{low} to {high}, or {self._ignore} for no class"
            raise DataError(f"{path}: it has the label {some(wrong)}, expected {expected}")
        return np.where(labels == self._ignore, IGNORED, labels - self._offset).astype(np.int32)

    def instances(self, i: int) -> tuple[Instance, ...]:
        """One region per class that image i shows."""
        labels = self.label_map(i)
        shown_here = np.unique(labels[labels != IGNORED])
        rles = encode_masks(labels == shown_here[:, None, None])
        return tuple(Instance(category, rle) for category, rle in zip(shown_here.tolist(), rles, strict=True))

    @cached_property
    def counts(self) -> Mapping[int, int] | None:  # type: ignore[override]
        """Label maps that show each class, of those that can be read; None of more than `COUNTED`."""
        if len(self) > COUNTED:
            return None
        with ThreadPoolExecutor(8) as pool:
            return Counter(c for found in pool.map(self._classes, range(len(self))) for c in found if c != IGNORED)

    def _classes(self, i: int) -> list[int]:
        try:
            return np.unique(self.label_map(i)).tolist()
        except DataError:  # named when the image is opened
            return []


def read_label_maps(
    images: Path | str,
    labels: Path | str,
    names: Sequence[str] | Path | str,
    *,
    ignore: int,
    offset: int = 0,
    name: str = "label maps",
    image_ending: str | None = None,
    label_ending: str | None = None,
    listed: Path | str | None = None,
) -> LabelMaps:
    """Pair the images below `images` with the label maps below `labels` by their path without the ending.

    names: one per class, in the order of their labels, or a text file with one a line; after a comma, synonyms. An
        underscore is read as a space. A name at the ignored label is no category.
    ignore: the label of pixels without a class. offset: the label of the first class.
    image_ending, label_ending: what to strip to pair files, e.g. "_leftImg8bit.png" with "_gtFine_labelTrainIds.png";
        other files are then passed over. By default any image's suffix, and any label map's.
    listed: a text file of the images to take, one path without the ending a line; by default all are.
    Raises DataError: a folder or partner is missing; of one image, a label map of several channels or other labels.
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
            raise DataError(f"{these[alone[0]].parent}: {len(alone)} {what} {where}: {some(alone)}")
    files = [(images_by_stem[stem], maps[stem]) for stem in sorted(images_by_stem)]
    categories = label_categories(names, ignore - offset)
    return LabelMaps(name, categories, files, ignore=ignore, offset=offset)


def label_categories(names: Sequence[str] | Path | str, ignored: int) -> list[Category]:
    """Categories 0, 1, … from names, or from a file of them, without the one at `ignored`."""
    source = "names"
    if isinstance(names, str | Path):
        source, names = str(names), text_lines(Path(names))
    found: dict[str, Category] = {}
    for number, line in enumerate(names):
        where = f"{source}: name {number + 1}"
        if not isinstance(line, str):
            raise DataError(f"{where} is {line!r}, expected text")
        word, *synonyms = (prompt_name(part, where) for part in line.split(","))
        if number == ignored:
            continue
        if word in found:
            raise DataError(f"{where} is {word!r}, as name {found[word].id + 1} is")
        found[word] = Category(number, word, tuple(synonyms))
    if not found:
        raise DataError(f"{source}: it has no names")
    return list(found.values())


def text_lines(path: Path) -> list[str]:
    """The lines of a text file, without the empty ones at its end."""
    lines = read_text(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _only_listed(path: Path, files: dict[str, Path], folder: Path) -> dict[str, Path]:
    stems = [composed(line.strip()) for line in text_lines(path)]
    if not stems or len(set(stems)) != len(stems):
        raise DataError(f"{path}: {len(stems)} images are listed, {len(set(stems))} different ones")
    if missing := [stem for stem in stems if stem not in files]:
        raise DataError(f"{path}: {len(missing)} of {len(stems)} listed images are not in {folder}: {some(missing)}")
    return {stem: files[stem] for stem in stems}


def _open_label(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable label map ({one_line(error)})") from None
    if image.mode in _MODES and max(image.size) <= MAX_SIDE:
        return image
    image.close()
    if image.mode not in _MODES:
        raise DataError(f"{path}: found {image.mode} pixels, expected a label map of a single channel")
    raise DataError(f"{path}: it is {image.width}x{image.height} pixels, expected at most {MAX_SIDE} a side")


def read_label_values(path: Path) -> np.ndarray:
    """(H, W) int64 labels; a palette's indices, not its colours. Raises DataError naming the file."""
    with _open_label(path) as image:
        try:
            return np.asarray(image).astype(np.int64)
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path}: not a readable label map ({one_line(error)})") from None
