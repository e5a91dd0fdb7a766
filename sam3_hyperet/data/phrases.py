"""COCO files that speak of phrases: SA-Co's pairs of an image and a phrase, and annotations that have a noun phrase.

Both become ordinary COCO content whose categories are the phrases, with LVIS's keys for what is known of an image: it
shows the phrases that are annotated in it, does not show those that were asked for and found nowhere, and of all others
nothing is known.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam3_hyperet.data.annotations import field, prompt_name, records, shown
from sam3_hyperet.data.coco_records import Id, as_whole_number, read_id, reference
from sam3_hyperet.errors import DataError

Record = Mapping[str, Any]
_MOST_ABSENT = 500  # phrases of other categories, evenly spread, that an image is said not to show
_KEPT = ("id", "file_name", "coco_url", "width", "height")


def has_phrases(content: Record) -> bool:
    """Whether any image has a `text_input`, or any annotation a `noun_phrase`, in what may be a COCO file."""
    lists = ((content.get("images"), "text_input"), (content.get("annotations"), "noun_phrase"))
    return any(
        isinstance(one, dict) and one.get(key) is not None
        for found, key in lists
        if isinstance(found, list)
        for one in found
    )


def with_phrases_as_categories(content: Record, path: Path, adjusted: Counter[str]) -> Record:
    """The same content with phrases as its categories; counts what was joined. Raises DataError."""
    if any(record.get("text_input") is not None for _, record in records(content, "images", path)):
        return _of_pairs(content, path, adjusted)
    return _of_noun_phrases(content, path, adjusted)


class _Phrases:
    """Phrases by their names as SAM 3 reads them, numbered in the order in which they come."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self.categories: list[dict[str, Any]] = []

    def number(self, value: object, where: str, supercategory: object = None) -> int:
        """The id of a phrase, a new one if need be."""
        name = prompt_name(value, where)
        number = self._ids.setdefault(name.lower(), len(self._ids) + 1)
        if number > len(self.categories):
            above = {} if supercategory is None else {"supercategory": supercategory}
            self.categories.append({"id": number, "name": name, **above})
        return number


def _of_pairs(content: Record, path: Path, adjusted: Counter[str]) -> Record:
    """Pairs of one file are one image; boxes and areas, which SA-Co has as fractions, are left to the masks."""
    phrases, images = _Phrases(), dict[str, dict[str, Any]]()
    pairs: dict[Id, tuple[int, int]] = {}  # by their id: the image's id and the phrase's
    exhaustive: dict[tuple[int, int], bool] = {}
    for where, record in records(content, "images", path):
        number = read_id(field(record, "id", where), f"{where}: its id", Counter())
        where = f"{path}: image {number}"
        phrase = phrases.number(field(record, "text_input", where), f"{where}: its text_input")
        file = str(record.get("file_name", record.get("coco_url")))
        image = images.setdefault(file, {key: record[key] for key in _KEPT if key in record} | {"id": number})
        if any(record.get(side) != image.get(side) for side in ("width", "height")):
            size, other = ((one.get("width"), one.get("height")) for one in (record, image))
            raise DataError(f"{where}: its size is {shown(size)}, that of {file} in image {image['id']} {shown(other)}")
        if number in pairs:
            raise DataError(f"{where}: two images have this id")
        pairs[number] = image["id"], phrase
        if pairs[number] in exhaustive:
            adjusted["phrase asked twice of an image, taken together"] += 1
        is_exhaustive = bool(record.get("is_instance_exhaustive", 1)) and exhaustive.get(pairs[number], True)
        exhaustive[pairs[number]] = is_exhaustive
    annotations, shown_pairs = [], set[tuple[int, int]]()
    for where, record in records(content, "annotations", path):
        pair = reference(record, "image_id", pairs, where, adjusted)
        shown_pairs.add(pair)
        left = {key: value for key, value in record.items() if key not in ("bbox", "area")}
        annotations.append({**left, "image_id": pair[0], "category_id": pair[1]})
    for image in images.values():
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    of_id = {image["id"]: image for image in images.values()}
    for pair, is_exhaustive in exhaustive.items():
        if is_exhaustive != (pair in shown_pairs):  # else all of it is annotated, or nothing is known
            key = "neg_category_ids" if is_exhaustive else "not_exhaustive_category_ids"
            of_id[pair[0]][key].append(pair[1])
    if len(images) < len(pairs):
        adjusted["pair of an image and a phrase, joined with others of its image"] += len(pairs) - len(images)
    return {"images": list(images.values()), "annotations": annotations, "categories": phrases.categories}


def _of_noun_phrases(content: Record, path: Path, adjusted: Counter[str]) -> Record:
    """A phrase is absent where none of the categories is annotated that its annotations have anywhere in the file."""
    names = {as_whole_number(one.get("id")): one.get("name") for _, one in records(content, "categories", path)}
    phrases, annotations, differing = _Phrases(), [], 0
    of_phrase, of_image = defaultdict[int, set[int]](set), defaultdict[int | None, set[int]](set)
    for where, record in records(content, "annotations", path):
        where = f"{path}: annotation {record.get('id')}"
        category = as_whole_number(field(record, "category_id", where))
        if category is None or category not in names:
            raise DataError(f"{where}: its category_id {shown(record['category_id'])} is not among the categories")
        name = names[category]
        said = name if record.get("noun_phrase") is None else record["noun_phrase"]
        phrase = phrases.number(said, f"{where}: its noun_phrase", name)
        differing += said != name
        annotations.append({**record, "category_id": phrase})
        of_phrase[phrase].add(category)
        of_image[as_whole_number(record.get("image_id"))].add(category)
    if not differing:
        return content
    adjusted["noun phrase of an annotation, read as its category"] += differing
    absent: dict[frozenset[int], list[int]] = {}  # by the categories of an image
    images = []
    for _, record in records(content, "images", path):
        here = frozenset(of_image[as_whole_number(record.get("id"))])
        if here not in absent:
            others = [phrase for phrase, categories in of_phrase.items() if here.isdisjoint(categories)]
            absent[here] = others[:: 1 + len(others) // _MOST_ABSENT]
        images.append({**record, "neg_category_ids": absent[here]})
    return {"images": images, "annotations": annotations, "categories": phrases.categories}
