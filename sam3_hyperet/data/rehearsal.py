"""Rehearsal: training images annotated with a model's own answers to names that their labels do not ask for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam3_hyperet import masks
from sam3_hyperet.arrays.positions import spread
from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo, Instance, field, records, some
from sam3_hyperet.data.vocabularies import absent_concepts, listed
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.masks import Rle
from sam3_hyperet.wording import count_of

_LISTED = 40  # names in a line


@dataclass(frozen=True)
class Answers:
    """What a model has found on an image.

    found: category id, mask at the image's size, and score of each detection that is a label. unclear: ids of the
    categories of which there may be more: they have detections that are no labels.
    """

    found: tuple[tuple[int, Rle, float], ...] = ()
    unclear: frozenset[int] = frozenset()

    @property
    def present(self) -> frozenset[int]:
        """Ids of the categories with a label."""
        return frozenset(category for category, _, _ in self.found)

    @classmethod
    def of(cls, labels: Sequence[tuple[int, Rle, float]], unclear: Collection[int]) -> Answers:
        """The same of labels of which some may be empty: these leave their categories unclear."""
        empty = [category for category, rle, _ in labels if not masks.area(rle)]
        found = [one for one in labels if masks.area(one[1])] if empty else labels
        return cls(tuple(found), frozenset(unclear).union(empty))


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
        self._answers: Mapping[int, Answers] = {}
        if count := len(set(listed(names))) - len(asked):
            self.remarks = (f"{count_of(count, 'name')} left out, for which {whole.name} has labels",)

    def __len__(self) -> int:
        return len(self._positions)

    def image(self, i: int) -> ImageInfo:
        return self._whole.image(self._positions[i])

    def instances(self, i: int) -> tuple[Instance, ...]:
        return tuple(Instance(category, rle) for category, rle, _ in self._of(i).found)

    def present(self, i: int) -> frozenset[int]:
        return self._of(i).present

    def unlabelled(self, i: int) -> frozenset[int]:
        return self._of(i).unclear - self._of(i).present

    def not_exhaustive(self, i: int) -> frozenset[int]:
        return self._of(i).unclear

    def annotate(self, answers: Mapping[int, Answers]) -> None:
        """Take the answers on images, by position, as their annotations."""
        self._answers = answers

    def lines(self, score_threshold: float) -> list[str]:
        """What the base has found, for people."""
        found = Counter(category for one in self._answers.values() for category, _, _ in one.found)
        unclear = sum(len(self.unlabelled(i)) for i in range(len(self)))
        counts = [f"{category.name} {found[category.id]:,}" for category in self.categories if found[category.id]]
        nowhere = [category.name for category in self.categories if not found[category.id]]
        asked = f"{count_of(len(self.categories), 'name')} on {count_of(len(self), 'training image')}"
        what = f"{count_of(sum(found.values()), 'object')}, with a score from {score_threshold:g}"
        lines = [f"rehearsal: of {asked} the base has found {what}: {some(counts, _LISTED) or 'nothing'}"]
        if unclear:
            share = unclear / (len(self) * len(self.categories))
            lines.append(
                f"rehearsal: unclear, so not asked, is {share:.0%} of the names on an image, of lower scores alone"
            )
        if nowhere:
            warning = "" if counts else "warning: "
            lines.append(
                f"rehearsal: {warning}found on no image, so at most asked for as absent: {some(nowhere, _LISTED)}"
            )
        return lines

    def to_coco(self) -> dict[str, Any]:
        """The answers as the content of a COCO file, with their scores; what is absent and unclear, as LVIS has it."""
        shown = [self.image(i) for i in range(len(self))]
        folder = os.path.commonpath([one.path.parent for one in shown])
        ids = {category.id for category in self.categories}
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        for i, one in enumerate(shown):
            name = one.path.relative_to(folder).as_posix()
            unclear, absent = sorted(self._of(i).unclear), sorted(ids - self._of(i).unclear - self.present(i))
            size = {"height": one.height, "width": one.width}
            known = {"neg_category_ids": absent, "not_exhaustive_category_ids": unclear}
            images.append({"id": i + 1, "file_name": name, **size, **known})
            for category, rle, score in self._of(i).found:
                of_mask = {"bbox": list(masks.box(rle)), "area": masks.area(rle), "segmentation": rle}
                placed = {"image_id": i + 1, "category_id": category, "iscrowd": 0, "score": score}
                annotations.append({"id": len(annotations) + 1, **placed, **of_mask})
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        return {"images": images, "categories": categories, "annotations": annotations}

    def from_coco(self, content: Any, file: Path) -> dict[int, Answers]:
        """The answers that are the content of a file of `to_coco`. Raises DataError naming the file."""
        names = [field(record, "name", where) for where, record in records(content, "categories", file)]
        images = list(records(content, "images", file))
        written = [Path(str(field(record, "file_name", where))).name for where, record in images]
        if names != [one.name for one in self.categories] or written != [
            self.image(i).path.name for i in range(len(self))
        ]:
            remedy = "expected the file as the run wrote it; without it, the base is asked anew"
            raise DataError(f"{file}: it is of other images or names than this run's rehearsal; {remedy}")
        found: dict[int, list[tuple[int, Rle, float]]] = {i: [] for i in range(len(self))}
        for where, record in records(content, "annotations", file):
            number, *label = (field(record, key, where) for key in ("image_id", "category_id", "segmentation", "score"))
            found[number - 1].append(tuple(label))
        unclear = [frozenset(field(record, "not_exhaustive_category_ids", where)) for where, record in images]
        return {i: Answers(tuple(found[i]), unclear[i]) for i in found}

    def _of(self, i: int) -> Answers:
        return self._answers.get(range(len(self))[i], Answers())
