"""Images annotated with a model's own answers to names, in place of their labels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from sam3_hyperet import masks
from sam3_hyperet.data.annotations import AnnotatedImages, Category, ImageInfo, Instance, some
from sam3_hyperet.data.options import KeptOptions
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


class AnsweredImages(AnnotatedImages):
    """Images of a data set, to be annotated with a model's answers to names.

    names: prompts, each once, in place of those of the options. Until `annotate` is called no image shows any of them;
    from then on each shows what was found there, and nothing is known of images that the model was not asked about.
    """

    def __init__(self, whole: AnnotatedImages, names: Sequence[str], options: KeptOptions) -> None:
        super().__init__(options.SECTION, [Category(i, one) for i, one in enumerate(names, start=1)])
        self._whole, self.options, self.is_upright = whole, options, whole.is_upright
        self._answers: Mapping[int, Answers] = {}
        self._of_others = Answers()

    def __len__(self) -> int:
        return len(self._whole)

    def image(self, i: int) -> ImageInfo:
        return self._whole.image(i)

    def load_image(self, i: int) -> Image.Image:
        return self._whole.load_image(i)

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
        self._answers, self._of_others = answers, Answers(unclear=frozenset(one.id for one in self.categories))

    @property
    def is_annotated(self) -> bool:
        """Whether the answers are there."""
        return bool(self._answers)

    @property
    def digest(self) -> str:
        """SHA-256 of the names and the answers."""
        known = {i: (one.found, sorted(one.unclear)) for i, one in sorted(self._answers.items())}
        return hashlib.sha256(repr((self.categories, known)).encode()).hexdigest()

    def lines(self, kind: str, nowhere: str, unused: str) -> list[str]:
        """What the model has found, for people.

        kind: of images that it was asked about. nowhere, unused: what follows for names that it found on none, and for
        unclear answers.
        """
        found = Counter(category for one in self._answers.values() for category, _, _ in one.found)
        counts = [f"{category.name} {found[category.id]:,}" for category in self.categories if found[category.id]]
        open_ = Counter(category for i in self._answers for category in self.unlabelled(i))
        never = [category.name for category in self.categories if open_[category.id] == len(self._answers)]
        not_found = [one.name for one in self.categories if not found[one.id] and one.name not in never]
        asked = f"{count_of(len(self.categories), 'name')} on {count_of(len(self._answers), kind)}"
        what = f"{count_of(sum(found.values()), 'object')} that score {self.options.score_threshold:g} or more"
        lines = [f"{self.name}: the base was asked for {asked} and found {what}: {some(counts, _LISTED) or 'nothing'}"]
        warning = "" if counts else "warning: "
        if not_found:
            lines.append(f"{self.name}: {warning}found nowhere, so {nowhere}: {some(not_found, _LISTED)}")
        if never:
            lines.append(f"{self.name}: {warning}unsure of on every image: {some(never, _LISTED)}")
        unclear = sum(len(self.unlabelled(i)) for i in self._answers)
        if share := unclear / (len(self._answers) * len(self.categories)):
            lines.append(f"{self.name}: {share:.0%} of the questions had low scores alone for an answer and {unused}")
        return lines

    def _of(self, i: int) -> Answers:
        return self._answers.get(range(len(self))[i], self._of_others)
