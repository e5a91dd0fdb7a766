"""Instances in Ultralytics' format: a data.yaml, and beside each image's folder a text file of polygons per image.

The polygons are fractions of the image as it is seen, turned by its EXIF orientation, as Ultralytics reads it.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3_hyperet.data.annotations import Category, prompt_name, shown, some
from sam3_hyperet.data.class_names import read_class_names
from sam3_hyperet.data.coco import CocoInstances
from sam3_hyperet.data.coco_annotations import AnnotationTable
from sam3_hyperet.data.coco_file import CocoFile, image_fields
from sam3_hyperet.data.coco_records import Id
from sam3_hyperet.data.finding import IMAGE_ENDINGS, UNREAD_ENDINGS, Listing, below, find_files, split_of
from sam3_hyperet.data.image_files import image_size
from sam3_hyperet.errors import DataError
from sam3_hyperet.reading import read_text, read_yaml
from sam3_hyperet.wording import count_of

_SLACK = 0.01  # that a coordinate may be off 0 to 1, as in Ultralytics
_BOX, _ORIENTED = 4, 8  # numbers of a box, of an oriented box
_IMAGES, _LABELS = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"  # the last folder images of a path is replaced
_THREADS, _AHEAD = 8, 1024  # label files that are opened at once, and whose texts wait
_OTHER_TEXTS = frozenset(("classes.txt", "notes.txt", "README.txt"))


@dataclass(frozen=True)
class YoloFile:
    """A data.yaml: class names by index, and by split its folders or lists of images as the file writes them."""

    names: Mapping[int, str]
    splits: Mapping[str, tuple[str, ...]]
    path: str  # what the splits are relative to, or ""


def read_yolo_file(file: Path) -> YoloFile:
    """Read a data.yaml. Raises DataError naming it, also where it is of another task than segmentation."""
    content = read_yaml(file, DataError)
    if not isinstance(content, dict):
        raise DataError(f"{file}: found {shown(content)}, expected names, train and val")
    if "kpt_shape" in content:
        raise DataError(f"{file}: it has kpt_shape, so its labels are keypoints; expected polygons (YOLO segmentation)")
    names = _names(content.get("names"), file)
    if "nc" in content and content["nc"] != len(names):
        raise DataError(f"{file}: nc is {shown(content['nc'])}, but it has {len(names)} names")
    splits: dict[str, tuple[str, ...]] = {}
    for key, listed in content.items():
        split = split_of(str(key))
        if split and listed:
            listed = [listed] if isinstance(listed, str) else listed
            if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
                raise DataError(f"{file}: {key} is {shown(listed)}, expected folders or lists of images")
            if split in splits:
                raise DataError(f"{file}: {key} is a second key for {split}; expected one")
            splits[split] = tuple(listed)
    path = content.get("path") or ""
    if not isinstance(path, str):
        raise DataError(f"{file}: path is {shown(path)}, expected a folder")
    return YoloFile(names, splits, path)


class YoloInstances(CocoInstances):
    """Instances whose annotations lie in a text file per image; made by `read_yolo`."""

    labels: Sequence[str | None]  # by position; None where there is no file

    def files(self, i: int) -> tuple[Path, ...]:
        label = self.labels[i]
        return super().files(i) if label is None else (*super().files(i), Path(label))


def read_yolo(
    root: Path,
    sources: Sequence[str],
    names: Sequence[str] | Path,
    *,
    name: str = "yolo",
    boxes: str = "drop",
    upright: bool = True,
) -> YoloInstances:
    """Read instances of Ultralytics' format; of the images, only the sizes are read here.

    sources: folders of images, or .txt lists of images, below `root`. An image's labels lie at its path with its last
        folder `images` replaced by `labels`, and its ending by .txt; without such a file, the image shows nothing.
    names: of the classes, in the order of their indices, or a data.yaml, or a text file with one a line.
    boxes: "instances" reads rows of a class and a box as instances whose boxes alone are known.
    upright: whether images are turned by their EXIF orientation.
    What has no mask is dropped and counted, as in `read_coco`. Raises DataError naming file and line.
    """
    if isinstance(names, Path) and names.suffix == ".txt":
        listed, first, _ = read_class_names(names)
        if first:
            raise DataError(f"{names}: its names are numbered from {first}; expected 0, or names alone, a line each")
        classes: Mapping[int, str] = _names(listed, names)
    else:
        classes = read_yolo_file(names).names if isinstance(names, Path) else _names(list(names), root)
    unread: list[Path] = []
    files = list(dict.fromkeys(str(file) for source in sources for file in _images(root, source, unread)))
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(lambda file: image_size(Path(file), upright=upright)[::-1], files))
    head = image_fields(range(len(files)), sizes)
    ids: dict[Id, int] = {number: number for number in classes}
    table = AnnotationTable(root, range(len(files)), head["sizes"], ids, boxes=boxes == "instances")
    listing = Listing(root)
    labels = [_found_label(file, listing) for file in files]
    number, empty, oriented = 0, 0, 0
    for i, text in enumerate(_texts(labels)):
        if text is None:
            continue
        rows = list(_rows(str(labels[i]), text, classes, table.dropped))
        empty += not rows
        for where, index, numbers in rows:
            oriented += len(numbers) == _ORIENTED
            number += 1
            table.add({"id": number, "image_id": i, **_record(index, numbers, *sizes[i])}, where)
    if (missing := labels.count(None)) == len(files):
        raise DataError(f"{root}: none of {missing} images has a label file, such as {label_file(files[0])}")
    categories = tuple(Category(index, text) for index, text in classes.items())
    content = CocoFile(categories, **head, **table.finish())
    found = YoloInstances(name, categories, content, files)
    only_oriented = oriented >= len(content.ids) > content.rectangles
    found.labels, found.remarks = labels, tuple(_remarks(files, labels, empty, only_oriented, unread))
    return found


def label_file(image: Path | str) -> str:
    """Where Ultralytics looks for an image's labels."""
    text = os.sep + os.path.splitext(image)[0]
    above, images, below = text.rpartition(_IMAGES)
    return f"{above}{_LABELS}{below}.txt"[1:] if images else f"{text}.txt"[1:]


def _found_label(image: str, listing: Listing) -> str | None:
    """The label file of an image below the listing's folder, in either Unicode form; None if there is none."""
    label = Path(label_file(image))
    if label.is_relative_to(listing.folder):
        found = listing.find(below(listing.folder, label))
        return None if found is None else str(found)
    return str(label) if os.path.lexists(label) else None  # the folder itself lies in one called images


def _texts(files: Sequence[str | None]) -> Iterator[str | None]:
    """The text of each file; of a shared disk, opening them takes most of the time."""

    def text(file: str | None) -> str | None:
        return None if file is None else read_text(Path(file))

    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(files), _AHEAD):
            yield from pool.map(text, files[first : first + _AHEAD])


def path_below(root: Path, text: str, *, by_end: bool = False) -> Path | None:
    """The file or folder below `root` that a data.yaml or a list of images names; None if there is none.

    Leading `..` are passed over: Roboflow writes `../train/images` for what lies at `train/images`. by_end: the longest
    end of the path that leads to something, for paths of another machine.
    """
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for first in range(len(parts) if by_end else 1):
        if parts and os.path.exists(found := root.joinpath(*parts[first:])):  # False, too, where a name is too long
            return found
    return None


def _images(root: Path, source: str, unread: list[Path]) -> list[Path]:
    """The images of a folder or a list; those of a folder in formats that are not read are added to `unread`."""
    found = path_below(root, source)
    if found is None:
        raise DataError(f"{root / source}: no such folder or list of images")
    if found.is_dir():
        every = sorted(find_files(found, IMAGE_ENDINGS + UNREAD_ENDINGS).values())
        files = [file for file in every if file.name.lower().endswith(IMAGE_ENDINGS)]
        others = [file for file in every if not file.name.lower().endswith(IMAGE_ENDINGS)]
        if not files:
            raise DataError(f"{found}: no images in this folder{'; ' if others else ''}{_not_read(others)}")
        unread += others
        return files
    lines = [line.strip() for line in read_text(found).splitlines() if line.strip()]
    below = {line: path_below(root, line, by_end=True) for line in lines}
    missing = [line for line, file in below.items() if file is None or not file.is_file()]
    if missing or not lines:
        raise DataError(f"{found}: {len(missing)} of {len(lines)} listed images are not below {root}: {some(missing)}")
    return [file for file in below.values() if file is not None]


def _names(names: object, source: Path) -> dict[int, str]:
    """Class names by index, from a list or a mapping."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{source}: names is {shown(names)}, expected the class names, a list or by their index")
    found: dict[int, str] = {}
    for index, text in names.items():
        if not str(index).isdecimal():
            raise DataError(f"{source}: names has the index {shown(index)}, expected a whole number")
        if not isinstance(text, str):
            raise DataError(f"{source}: name {index} is {shown(text)}, expected text; put it in quotes")
        word = prompt_name(text, f"{source}: name {index}")
        if word.lower() in (other.lower() for other in found.values()):
            raise DataError(f"{source}: name {index} is {word!r}, as another is")
        found[int(index)] = word
    return found


def _rows(
    file: str, text: str, classes: Mapping[int, str], dropped: Counter[str]
) -> Iterator[tuple[str, int, list[float]]]:
    """Where each row of a label file is, its class, and its numbers."""
    seen = set[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        words, where = line.split(), f"{file}: line {number}"
        if not words:
            continue
        try:
            index, *numbers = map(float, words)
        except ValueError:
            raise DataError(f"{where} is {shown(line)}, expected a class index and numbers") from None
        if index not in classes:
            low, high = min(classes), max(classes)
            raise DataError(
                f"{where}: the class {words[0]} is none of the {len(classes)} names' indices, {low} to {high}"
            )
        if len(numbers) % 2:
            confidence = "; is the last one a confidence?" if len(numbers) > _BOX else ""
            raise DataError(f"{where} has {len(numbers)} numbers after the class, expected pairs x y{confidence}")
        if wrong := [value for value in numbers if not -_SLACK <= value <= 1 + _SLACK]:
            raise DataError(f"{where} has the coordinate {wrong[0]:g}, expected fractions of the image, 0 to 1")
        if " ".join(words) in seen:
            dropped["row that is in the file twice"] += 1
            continue
        seen.add(" ".join(words))
        yield where, int(index), numbers


def _record(index: int, numbers: Sequence[float], height: int, width: int) -> dict[str, Any]:
    """A row as a COCO annotation; one of four numbers is a box, centre and size, without a mask.

    Fewer are an outline of no area, which the reader of annotations drops and counts.
    """
    if len(numbers) == _BOX:
        x, y, w, h = numbers
        return {"category_id": index, "bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]}
    outline = [v * (height if n % 2 else width) for n, v in enumerate(numbers)]
    return {"category_id": index, "segmentation": [outline]}


def _not_read(files: Sequence[Path]) -> str:
    """That images of a folder are in other formats than those that are read; "" for none."""
    if not files:
        return ""
    found = f"not read: {count_of(len(files), 'image')} in another format, such as {files[0]}"
    return f"{found}; expected files ending in {', '.join(IMAGE_ENDINGS)}"


def _remarks(
    files: Sequence[str], labels: Sequence[str | None], empty: int, only_oriented: bool, unread: Sequence[Path]
) -> Iterator[str]:
    missing = labels.count(None)
    if empty or missing:
        yield f"{empty} of {len(labels)} images have an empty label file and {missing} have none: they show nothing"
    folders = {os.path.dirname(label) for label in labels if label is not None}
    used = set(labels)
    beside = [path for folder in folders for path in Path(folder).glob("*.txt") if str(path) not in used]
    if stray := [path for path in beside if path.name not in _OTHER_TEXTS]:
        found = f"{count_of(len(stray), 'label file')} without an image in this split: {some(sorted(stray))}"
        alone = [file for file, label in zip(files, labels, strict=True) if label is None]
        also = f"; images without a label file: {some(alone)}; expected the same names, if they belong together"
        yield f"warning: {found}{also if alone else ''}"
    if unread:
        yield f"warning: {_not_read(list(dict.fromkeys(unread)))}"
    if only_oriented:
        yield "warning: all outlines have four points, as oriented boxes do; boxes in place of masks teach boxes"
