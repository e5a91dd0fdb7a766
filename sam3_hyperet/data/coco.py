"""COCO instance annotations, checked as they are read.

What is wrong (an unknown id, a missing image …) is an error naming file and record. What is merely degenerate (a mask
without a pixel) is left out and counted in `dropped`; a box or an area that cannot be follows from the mask and is
counted in `adjusted`. Polygons become masks one image at a time, so the whole of train2017 can be read.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from sam3_hyperet.arrays.ragged import Ragged
from sam3_hyperet.data.annotations import (
    AnnotatedImages,
    Category,
    ImageInfo,
    Instance,
    field,
    records,
    shown,
    some,
)
from sam3_hyperet.data.coco_annotations import AnnotationTable
from sam3_hyperet.data.coco_categories import ROOT, read_categories, root_remark
from sam3_hyperet.data.coco_file import CocoFile, image_fields
from sam3_hyperet.data.coco_index import CocoIndex
from sam3_hyperet.data.coco_json import CocoJson
from sam3_hyperet.data.coco_records import Foreign, Id, foreign_reason, numbered, read_id, read_side
from sam3_hyperet.data.finding import Listing, below, leaves_folder
from sam3_hyperet.data.hierarchy import ConceptTree, read_tree, with_tree
from sam3_hyperet.data.image_files import image_size
from sam3_hyperet.data.phrases import has_phrases, with_phrases_as_categories
from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import MAX_SIDE


class CocoInstances(AnnotatedImages):
    """COCO instances; made by `read_coco`."""

    def __init__(
        self,
        name: str,
        categories: Sequence[Category],
        file: CocoFile,
        paths: Sequence[Path | str],
        folder: Path = Path(),
        crowds: str = "ignore",
    ) -> None:
        """paths: of the images, below the folder."""
        super().__init__(name, categories)
        self._file, self._paths, self._folder, self._has_crowds = file, paths, folder, crowds == "ignore"
        self.dropped, self.adjusted = Counter(file.dropped), Counter(file.adjusted)
        self.crowds, self.rectangles = int(file.crowd.sum()) if self._has_crowds else 0, file.rectangles
        self.boxed = int(file.boxed.sum())
        if file.crowds and not self._has_crowds:
            self.adjusted["crowd, read as an instance"] = file.crowds
        self.left_out = frozenset([file.root.lower()] if file.root else ())
        ids, counts = np.unique(file.categories, return_counts=True)
        self.counts = dict(zip(ids.tolist(), counts.tolist(), strict=True))
        self.stated_absent = frozenset(file.absent.values.tolist())
        # all that the file says of these is that some images do not show them
        self._never_shown = self.stated_absent & self.unannotated

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def annotation_count(self) -> int:
        """How many annotations the file has, dropped ones included."""
        return len(self._file.ids) + self.dropped.total()

    def image(self, i: int) -> ImageInfo:
        height, width = self._file.sizes[i].tolist()
        return ImageInfo(int(self._file.image_ids[i]), self._folder / self._paths[i], height, width)

    def instances(self, i: int) -> tuple[Instance, ...]:
        return tuple(self._file.instance(row, self._has_crowds) for row in self._rows(i).tolist())

    def present(self, i: int) -> frozenset[int]:
        rows = self._rows(i)
        if self._has_crowds:
            rows = rows[~self._file.crowd[rows]]
        return frozenset(self._file.categories[rows].tolist())

    def max_instances(self, names: Mapping[int, int]) -> np.ndarray:
        file = self._file
        counted = np.isin(file.categories, list(names)) & ~(file.crowd & self._has_crowds)
        ids, at = np.unique(file.categories[counted], return_inverse=True)
        _, name = np.unique([names[one] for one in ids.tolist()], return_inverse=True)
        pairs, counts = np.unique(file.images[counted] * max(len(ids), 1) + name[at], return_counts=True)
        found = np.zeros(len(self), np.int64)
        np.maximum.at(found, pairs // max(len(ids), 1), counts)
        return found

    def crowd_only(self, i: int) -> frozenset[int]:
        if not self.crowds:
            return frozenset()
        rows = self._rows(i)
        return frozenset(self._file.categories[rows[self._file.crowd[rows]]].tolist()) - self.present(i)

    def unlabelled(self, i: int) -> frozenset[int]:
        i = range(len(self))[i]
        lost = frozenset(self._file.unlabelled[i].tolist())
        if not self._file.federated[i]:
            return lost | self._never_shown
        known = {*self._file.absent[i].tolist(), *self._file.categories[self._rows(i)].tolist()}
        return lost | (frozenset(category.id for category in self.categories) - known)  # nothing is known of the rest

    def not_exhaustive(self, i: int) -> frozenset[int]:
        i = range(len(self))[i]
        return frozenset([*self._file.not_exhaustive[i].tolist(), *self._file.partly[i].tolist()])

    def _rows(self, i: int) -> np.ndarray:
        return self._file.rows[range(len(self))[i]]


def read_coco(
    annotations: Path | str,
    images: Path | str,
    *,
    name: str = "coco",
    tree: Path | str | None = None,
    crowds: str = "ignore",
    boxes: str = "drop",
    upright: bool = False,
) -> CocoInstances:
    """Read a COCO instances JSON whose images lie in the folder `images`, listed once; no image is opened here.

    A large file has an index beside it, from which it is read the next time.

    tree: a concepts.json, whose synonyms, granularities and parents the categories take by id; without one, a
        category's `synonyms` and `granularity` are its own and its siblings are those of its `supercategory`.
    crowds: "instances" reads each `iscrowd: 1` as one instance; "ignore" as a region that is ignored.
    boxes: "instances" reads a box without a mask as an instance whose box alone is known; "drop" leaves it out.
    upright: whether images are turned by their EXIF orientation, for those whose size the file does not say.
    Raises DataError, naming file and record.
    """
    path, folder = Path(annotations), Path(images)
    with_boxes = boxes == "instances"
    index = CocoIndex(path, boxes=with_boxes)
    file = index.read()
    if file is None:
        source, adjusted = CocoJson(path), Counter[str]()
        head, of_image, of_category = _read_head(source, adjusted)
        categories = _with_tree(head["vocabulary"], path, tree)
        paths, found_by_end, left_out = _paths(path, folder, head["image_ids"], head["file_names"])
        has_sizes = _fill_sizes(head["sizes"], paths, folder, upright, adjusted)
        image_ids, ids = _as_in_file(head["image_ids"].tolist(), of_image), [category.id for category in categories]
        category_ids = dict(zip(_as_in_file(ids, of_category), ids, strict=True))
        table = AnnotationTable(path, image_ids, head["sizes"], category_ids, boxes=with_boxes)
        source.add_annotations(table)
        table.adjusted += adjusted
        file = CocoFile(**head, **table.finish())
        if has_sizes:
            file = index.write(file)
    else:
        categories = _with_tree(file.vocabulary, path, tree)
        paths, found_by_end, left_out = _paths(path, folder, file.image_ids, file.file_names)
    if crowds == "ignore" and file.crowd.all():
        raise DataError(
            f"{path}: all of its {len(file.ids)} annotations with a mask are crowds (iscrowd: 1), of which "
            "nothing is learnt or scored; if each is one instance, read it so by data.crowds=instances"
        )
    found = CocoInstances(name, categories, file, paths, folder, crowds)
    if found_by_end:
        found.adjusted["image path of another place or spelling, found by its end"] = found_by_end
    left = f"{left_out:,} image files of {folder} have no record in {path.name} and are left out" if left_out else ""
    found.remarks = (*index.remarks, *filter(None, [root_remark(file.root), left]))
    return found


class CocoImages(AnnotatedImages):
    """The images and categories of a COCO file, whatever its annotations; made by `read_coco_images`."""

    def __init__(self, categories: Sequence[Category], images: Sequence[ImageInfo]) -> None:
        super().__init__("coco", categories)
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def image(self, i: int) -> ImageInfo:
        return self._images[i]

    def instances(self, i: int) -> tuple[Instance, ...]:
        return ()


def read_coco_images(annotations: Path, images: Path, *, upright: bool = False) -> CocoImages:
    """The images and categories of a COCO file, also of one without annotations, such as those of test images.

    Raises DataError, naming file and record.
    """
    source, adjusted = CocoJson(annotations), Counter[str]()
    if isinstance(source.content, dict) and has_phrases(source.content):
        raise DataError(f"{annotations}: its prompts are phrases of images, so it has no categories to predict")
    head, *foreign = _read_head(source, adjusted)
    paths, *_ = _paths(annotations, images, head["image_ids"], head["file_names"])
    _fill_sizes(head["sizes"], paths, images, upright, adjusted)
    records_of = zip(head["image_ids"].tolist(), paths, head["sizes"].tolist(), strict=True)
    found = CocoImages(head["vocabulary"], [ImageInfo(i, images / path, *size) for i, path, size in records_of])
    of_others = [f"{n} × {reason}" for reason, n in adjusted.items() if any(foreign)]
    found.remarks = tuple(filter(None, [root_remark(head["root"]), ", ".join(of_others)]))
    found.is_upright = upright
    return found


def _read_head(source: CocoJson, adjusted: Counter[str]) -> tuple[dict[str, Any], Foreign, Foreign]:
    """The fields of a `CocoFile` that are not of annotations, and the foreign ids of both; counts what was repaired."""
    content, path = source.content, source.path
    if not isinstance(content, dict):
        raise DataError(f"{path}: found a {type(content).__name__}, expected an object with images, annotations, …")
    if has_phrases(content):
        source.content = content = with_phrases_as_categories(content, path, adjusted)
    vocabulary, root, of_category = read_categories(source, content, adjusted)
    known = {one.id for one in vocabulary} | ({ROOT} if root else set())
    of_image = numbered([record.get("id") for _, record in records(content, "images", path)])
    if of_image:
        adjusted[foreign_reason("image")] += len(of_image)
    fields = _images(content, path, known, adjusted, of_image)
    return {"vocabulary": vocabulary, "root": root, **fields}, of_image, of_category


def _as_in_file(numbers: Sequence[int], foreign: Foreign) -> list[Id]:
    """The ids that a file has for our numbers."""
    theirs = {number: one for one, number in foreign.items()}
    return [theirs.get(number, number) for number in numbers]


def _with_tree(vocabulary: Sequence[Category], path: Path, tree: Path | str | None) -> Sequence[Category]:
    categories = vocabulary if tree is None else with_tree(vocabulary, read_tree(Path(tree)), path, Path(tree))
    try:
        ConceptTree(categories)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return categories


def _images(
    content: Mapping[str, Any], path: Path, categories: Set[int], adjusted: Counter[str], foreign: Foreign
) -> dict[str, Any]:
    """The fields of a `CocoFile` that say which images there are; a size that the file does not say is 0."""
    names, sizes = dict[int, str](), list[tuple[int, int]]()
    federated, known = [], {"neg_category_ids": list[tuple[int, int]](), "not_exhaustive_category_ids": []}
    for where, record in records(content, "images", path):
        number = read_id(field(record, "id", where), f"{where}: its id", adjusted, foreign=foreign)
        where = f"{path}: image {number}"
        if number in names:
            raise DataError(f"{where}: two images have this id")
        if not known.keys().isdisjoint(record):
            federated.append(len(names))
        for key, pairs in known.items():
            ids = record.get(key, [])
            if not isinstance(ids, list) or any(type(one) is not int or one not in categories for one in ids):
                raise DataError(f"{where}: its {key} are {shown(ids)}, expected category ids")
            pairs += [(len(names), one) for one in ids]
        # LVIS has no file_name: folder and file are the end of the URL
        is_url = "coco_url" in record and "file_name" not in record
        name = record["coco_url"] if is_url else field(record, "file_name", where)
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise DataError(f"{where}: its file_name is {shown(name)}, expected a path below the image folder")
        if is_url:
            name = unquote("/".join(name.split("/")[-2:]))
        height, width = (read_side(record, side, where, adjusted, MAX_SIDE) for side in ("height", "width"))
        sizes.append((height, width))
        names[number] = name
    if not names:
        raise DataError(f"{path}: it has no images")
    return image_fields(list(names), sizes, list(names.values()), federated, *known.values())


def _paths(path: Path, folder: Path, ids: np.ndarray, file_names: Ragged) -> tuple[list[str], int, int]:
    """The file of each image, below the folder; how many were found by the end of their path alone, and how many image
    files beside them are of no record.

    Raises DataError if one is not there, or is that of two images.
    """
    text, ends = file_names.values.tobytes(), file_names.starts.tolist()
    names = [text[start:end].decode("utf-8", "surrogatepass") for start, end in itertools.pairwise(ends)]
    listing = Listing(folder)
    found = ["" if leaves_folder(name) else listing.name(name) or "" for name in names]
    folders: dict[str, str] = {}
    by_end = {i: _by_end(listing, names[i], folders) for i, name in enumerate(found) if not name}
    missing = []
    for i, file in by_end.items():
        if file is not None:
            found[i] = file
        elif leaves_folder(names[i]):
            raise DataError(
                f"{path}: image {ids[i]}: its file_name {shown(names[i])} leaves the image folder, and no file in "
                f"{folder} is named as its end"
            )
        else:
            missing.append(f"{names[i]} (image {ids[i]})")
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(found)} images are not in {folder}: {some(missing)}; expected them there "
            "or below: copy them, or export with images"
        )
    if len(owners := dict(zip(found, ids.tolist(), strict=True))) < len(found):
        i = next(i for i, name in enumerate(found) if owners[name] != ids[i])
        raise DataError(
            f"{path}: image {owners[found[i]]}: its file {folder / found[i]} is that of image {ids[i]}, too; expected "
            "one record an image"
        )
    return found, len(by_end), listing.others(owners)


def _by_end(listing: Listing, name: str, folders: dict[str, str]) -> str | None:
    """The file below the folder that the end of a path leads to; folders: where those of a parent were found."""
    parent, _, last = name.rpartition("/")
    if parent in folders and (found := listing.name(f"{folders[parent]}{last}")):
        return found
    if (file := listing.find_by_end(name)) is None:
        return None
    found = below(listing.folder, file)
    if found.endswith(f"/{last}") or found == last:
        folders[parent] = found.removesuffix(last)
    return found


def _fill_sizes(sizes: np.ndarray, paths: Sequence[str], folder: Path, upright: bool, adjusted: Counter[str]) -> bool:
    """Take the sizes that the file does not say from the images; whether there was none."""
    unknown = np.flatnonzero((sizes == 0).any(axis=1)).tolist()
    for i in unknown:
        adjusted["image without a size, taken from its file"] += 1
        sizes[i] = image_size(folder / paths[i], upright=upright)[::-1]
    return not unknown
