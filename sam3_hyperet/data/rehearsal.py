"""Rehearsal: training images annotated with a model's own answers to names that their labels do not ask for."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sam3_hyperet import masks
from sam3_hyperet.arrays.positions import spread
from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo, Instance, some
from sam3_hyperet.data.directions import directional
from sam3_hyperet.data.options import DataOptions, RehearsalOptions
from sam3_hyperet.data.sources import prompt_sampler
from sam3_hyperet.data.vocabularies import absent_concepts
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

    names: prompts, each once. most: images; 0 for all. Until `annotate` is called no image shows any of the names; from
    then on each shows what was found there, and nothing else.
    """

    def __init__(self, whole: AnnotatedImages, names: Sequence[str], most: int = 0) -> None:
        super().__init__("rehearsal", [Category(i, name) for i, name in enumerate(names, start=1)])
        self._whole, self.is_upright = whole, whole.is_upright
        self._positions = spread(len(whole), most or len(whole))
        self._answers: Mapping[int, Answers] = {}

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
        """Take the answers on images, by position, as their annotations. Raises ConfigError: nothing can be asked."""
        self._answers = answers
        if not any(len(self.unlabelled(i)) < len(self.categories) for i in range(len(self))):
            found = (
                f"every name has a score below rehearsal.score_threshold alone on all of {count_of(len(self), 'image')}"
            )
            expected = "a higher rehearsal.unclear_threshold, from which on names are left open, or other names"
            raise ConfigError(f"rehearsal.names: {found}, so nothing can be asked; expected {expected}")

    def lines(self, score_threshold: float) -> list[str]:
        """What the base has found, for people."""
        found = Counter(category for one in self._answers.values() for category, _, _ in one.found)
        counts = [f"{category.name} {found[category.id]:,}" for category in self.categories if found[category.id]]
        nowhere = [category.name for category in self.categories if not found[category.id]]
        asked = f"{count_of(len(self.categories), 'name')} on {count_of(len(self), 'training image')}"
        what = f"{count_of(sum(found.values()), 'object')} that score {score_threshold:g} or more"
        lines = [f"rehearsal: the base was asked for {asked} and found {what}: {some(counts, _LISTED) or 'nothing'}"]
        if nowhere:
            warning = "" if counts else "warning: "
            lines.append(f"rehearsal: {warning}found nowhere, so never asked for as present: {some(nowhere, _LISTED)}")
        unclear = [len(self.unlabelled(i)) for i in range(len(self))]
        if share := sum(unclear) / (len(self) * len(self.categories)):
            lines.append(
                f"rehearsal: {share:.0%} of the questions had low scores alone for an answer and are not trained on"
            )
        if left := unclear.count(len(self.categories)):
            lines.append(f"rehearsal: {count_of(left, 'image')} left out, on which no answer was clear")
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
        remedy = "expected the file as the run wrote it; without it, the base is asked anew"
        try:
            names = [one["name"] for one in content["categories"]]
            written = [Path(one["file_name"]).name for one in content["images"]]
            unclear = [frozenset(one["not_exhaustive_category_ids"]) for one in content["images"]]
            found: list[list[tuple[int, Rle, float]]] = [[] for _ in written]
            for one in content["annotations"]:
                found[one["image_id"] - 1].append((one["category_id"], one["segmentation"], one["score"]))
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"{file}: not what a run has written ({type(error).__name__}: {error}); {remedy}") from None
        shown = [self.image(i).path.name for i in range(len(self))]
        if (names, written) != ([one.name for one in self.categories], shown):
            raise DataError(f"{file}: it is of other images or names than this run's rehearsal; {remedy}")
        return {i: Answers(tuple(found[i]), unclear[i]) for i in range(len(self))}

    def _of(self, i: int) -> Answers:
        return self._answers.get(range(len(self))[i], Answers())


def open_rehearsal(
    options: RehearsalOptions, data: DataOptions, training: AnnotatedImages
) -> tuple[RehearsedImages, DataOptions]:
    """The images to rehearse with, of a data set's training images, and the options by which they are trained on.

    Names that the training prompts of `data` ask for, present or absent, are left out, and a remark counts them. Raises
    ConfigError: no name is left, or one that training must see nothing of.
    """
    asked = absent_concepts(options.names, (), option="rehearsal.names")
    sampler = prompt_sampler(data, training)
    known = [*sampler.categories, *(Category(0, name) for name in sampler.absent_concepts)]
    names = absent_concepts(asked, known)
    if not names:
        found = f"rehearsal.names={options.names!r:.80}: training asks for all of them by the labels of {training.name}"
        raise ConfigError(f"{found}; expected other names, of what the base should go on finding")
    if data.unseen and (seen := [name for name in names if name.lower() in training.left_out]):
        found = f"rehearsal.names: training must see nothing of {some(seen)} (data.unseen)"
        raise ConfigError(f"{found}; expected names of other concepts")
    images = RehearsedImages(training, names, options.images)
    if count := len(asked) - len(names):
        images.remarks = (f"{count_of(count, 'name')} left out, which the prompts of {training.name} ask for",)
    own: dict[str, Any] = {"groups": None, "prompt_weights": None, "negative_prompt_weights": None}  # of other names
    own |= {"annotated": (), "absent_concepts": (), "weight": options.weight}
    if data.flip is None and directional(training.categories):
        own["flip"] = 0.0
    return images, replace(data, **own)
