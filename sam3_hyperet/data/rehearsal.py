"""Rehearsal: training images annotated with a model's own answers to names that their labels do not ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sam3_hyperet import masks
from sam3_hyperet.arrays.positions import spread
from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo, Instance, field, records, some
from sam3_hyperet.data.vocabularies import absent_concepts, listed
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.masks import Rle
from sam3_hyperet.wording import count_of

Answer = tuple[int, Rle, float]
"""What a model has found: the category's id, the mask at the image's size, and the score."""
_FORM = "expected the file as it was written; without it, the base is asked anew"


class RehearsedImages(AnnotatedImages):
    """Some images of a data set, evenly spread, to be annotated with a model's answers to names.

    names: as in `RehearsalOptions`. prompted: categories that the data set's own labels ask for, whose names are left
    out. most: images; 0 for all. Until `annotate` is called no image shows any of the names; from then on each shows
    what was found there, and nothing else. Raises ConfigError: no name is left.
    """

    def __init__(
        self, whole: AnnotatedImages, names: str | Sequence[str], prompted: Collection[Category], most: int = 0
    ) -> None:
        asked = absent_concepts(names, prompted, option="rehearsal.names")
        if not asked:
            found = f"rehearsal.names={names!r:.80}: training asks for all of them by the labels of {whole.name}"
            raise ConfigError(f"{found}; expected other names, of what the base should go on finding")
        super().__init__("rehearsal", [Category(i, name) for i, name in enumerate(asked, start=1)])
        self._whole, self.is_upright = whole, whole.is_upright
        self._positions = spread(len(whole), most or len(whole))
        self._instances: Mapping[int, tuple[Instance, ...]] = {}
        self._unclear: Mapping[int, frozenset[int]] = {}
        if count := len(set(listed(names))) - len(asked):
            self.remarks = (f"{count_of(count, 'name')} left out, for which {whole.name} has labels",)

    def __len__(self) -> int:
        return len(self._positions)

    def image(self, i: int) -> ImageInfo:
        return self._whole.image(self._positions[i])

    def instances(self, i: int) -> tuple[Instance, ...]:
        return self._instances.get(i, ())

    def unlabelled(self, i: int) -> frozenset[int]:
        return self._unclear.get(i, frozenset())

    def annotate(self, answers: Mapping[int, Sequence[Answer]]) -> None:
        """Take the answers on images, by position, as their annotations.

        A name that is found with empty masks alone is there for all that is known: it is neither present nor absent.
        """
        found = {i: [Instance(category, rle) for category, rle, _ in of_image] for i, of_image in answers.items()}
        self._instances = {i: tuple(one for one in of_image if one.area) for i, of_image in found.items()}
        self._unclear = {
            i: frozenset(one.category_id for one in of_image) - self.present(i) for i, of_image in found.items()
        }

    def lines(self, score_threshold: float) -> list[str]:
        """What the base has found, for people."""
        found = Counter(one.category_id for of_image in self._instances.values() for one in of_image)
        counts = [f"{category.name} {found[category.id]:,}" for category in self.categories if found[category.id]]
        nowhere = [category.name for category in self.categories if not found[category.id]]
        asked = f"{count_of(len(self.categories), 'name')} on {count_of(len(self), 'training image')}"
        what = f"{count_of(sum(found.values()), 'object')}, with a score from {score_threshold:g}"
        lines = [f"rehearsal: of {asked} the base has found {what}: {some(counts, 40) or 'nothing'}"]
        if nowhere:
            warning = "" if counts else "warning: "
            lines.append(f"rehearsal: {warning}found on no image, so asked for as absent alone: {some(nowhere, 40)}")
        return lines


def to_coco(images: RehearsedImages, answers: Mapping[int, Sequence[Answer]]) -> dict[str, Any]:
    """The answers on all images as the content of a COCO file, each with its score."""
    annotations: list[dict[str, Any]] = []
    for i in range(len(images)):
        for category, rle, score in answers[i]:
            of_mask = {"bbox": list(masks.box(rle)), "area": masks.area(rle), "segmentation": rle}
            placed = {"image_id": images.image(i).image_id, "category_id": category, "iscrowd": 0, "score": score}
            annotations.append({"id": len(annotations) + 1, **placed, **of_mask})
    shown = [images.image(i) for i in range(len(images))]
    return {
        "images": [
            {"id": one.image_id, "file_name": one.path.name, "height": one.height, "width": one.width} for one in shown
        ],
        "categories": [{"id": category.id, "name": category.name} for category in images.categories],
        "annotations": annotations,
    }


def from_coco(images: RehearsedImages, content: Any, file: Any) -> dict[int, list[Answer]]:
    """The answers of `to_coco`, of the same images and names. Raises DataError naming the file."""
    names = [field(record, "name", where) for where, record in records(content, "categories", file)]
    ids = [field(record, "id", where) for where, record in records(content, "images", file)]
    if names != [c.name for c in images.categories] or ids != [images.image(i).image_id for i in range(len(images))]:
        raise DataError(f"{file}: it is of other images or names than this run's rehearsal; {_FORM}")
    answers: dict[int, list[Answer]] = {i: [] for i in range(len(images))}
    position = {image_id: i for i, image_id in enumerate(ids)}
    for where, record in records(content, "annotations", file):
        category, rle, score = (field(record, key, where) for key in ("category_id", "segmentation", "score"))
        answers[position[field(record, "image_id", where)]].append((category, rle, score))
    return answers
