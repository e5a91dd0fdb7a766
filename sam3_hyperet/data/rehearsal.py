"""Rehearsal: training images annotated with a model's own answers to names that their labels do not ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sam3_hyperet import masks
from sam3_hyperet.arrays.positions import spread
from sam3_hyperet.data.annotations import AnnotatedImages, Category, some
from sam3_hyperet.data.answers import AnsweredImages, Answers
from sam3_hyperet.data.directions import directional
from sam3_hyperet.data.finding import below
from sam3_hyperet.data.options import DataOptions, RehearsalOptions
from sam3_hyperet.data.sources import prompt_sampler
from sam3_hyperet.data.subsets import Subset
from sam3_hyperet.data.vocabularies import absent_concepts
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.masks import Rle
from sam3_hyperet.wording import count_of


class RehearsedImages(AnsweredImages):
    """Some training images of a data set, evenly spread, to be annotated with a model's answers to names.

    names: prompts, each once, in place of those of the options.
    """

    def __init__(self, whole: AnnotatedImages, names: Sequence[str], options: RehearsalOptions) -> None:
        super().__init__(Subset(whole, spread(len(whole), options.images or len(whole))), names, options)

    def annotate(self, answers: Mapping[int, Answers]) -> None:
        """Take the answers on images, by position, as their annotations. Raises ConfigError: nothing can be asked."""
        super().annotate(answers)
        if not any(len(self.unlabelled(i)) < len(self.categories) for i in range(len(self))):
            found = (
                f"every name has a score below rehearsal.score_threshold alone on all of {count_of(len(self), 'image')}"
            )
            expected = "a higher rehearsal.unclear_threshold, from which on names are left open, or other names"
            raise ConfigError(f"rehearsal.names: {found}, so nothing can be asked; expected {expected}")

    def lines_of_training(self) -> list[str]:
        """What the base has found and what is trained on of it, for people."""
        words = "never asked for as present", "are not trained on"
        lines = self.lines("training image", *words)
        if left := sum(len(self.unlabelled(i)) == len(self.categories) for i in range(len(self))):
            lines.append(f"rehearsal: {count_of(left, 'image')} left out, on which no answer was clear")
        return lines

    def to_coco(self) -> dict[str, Any]:
        """The answers as the content of a COCO file, with their scores; what is absent and unclear, as LVIS has it."""
        shown = [self.image(i) for i in range(len(self))]
        folder = Path(os.path.commonpath([one.path.parent for one in shown]))
        ids = {category.id for category in self.categories}
        images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
        for i, one in enumerate(shown):
            name = below(folder, one.path)
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
    images = RehearsedImages(training, names, options)
    if count := len(asked) - len(names):
        images.remarks = (f"{count_of(count, 'name')} left out, which the prompts of {training.name} ask for",)
    own: dict[str, Any] = {"groups": None, "prompt_weights": None, "negative_prompt_weights": None}  # of other names
    own |= {"annotated": (), "absent_concepts": (), "weight": options.weight}
    if data.flip is None and directional(training.categories):
        own["flip"] = 0.0
    return images, replace(data, **own)
