"""What one person looks at: a picture, prompts and a dial; answers that were given are not computed again."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from sam3_hyperet.demo.models import BASE, Found, Models, Picture
from sam3_hyperet.demo.prompts import Ask

_ANSWERS = 512  # that are kept, of one model for one prompt at one dial


@dataclass(frozen=True)
class Answer:
    """What the base and an adapted model at a dial find for prompts, in their order.

    computed: how many of the answers, of a model for a prompt, were not at hand. seconds: what it took.
    """

    asked: tuple[Ask, ...]
    base: tuple[Found, ...]
    adapted: tuple[Found, ...]
    adapter: str
    dial: float
    computed: int
    seconds: float

    @property
    def adapted_title(self) -> str:
        """The adapted model and its dial, as headings have it."""
        return f"{self.adapter[:1].upper()}{self.adapter[1:]}, dial {self.dial:g}"


class Session:
    """One person's picture and answers. Another picture forgets the answers; nothing is shared with other sessions."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._picture: Picture | None = None
        self._answers = OrderedDict[tuple[str, float, Ask], Found]()

    @property
    def picture(self) -> Picture | None:
        """The picture that is looked at; to set another one forgets the answers."""
        return self._picture

    @picture.setter
    def picture(self, picture: Picture) -> None:
        if self._picture is None or picture.key != self._picture.key:
            self._answers.clear()
        self._picture = picture

    def answer(self, asked: Sequence[Ask], adapter: str, dial: float) -> Answer:
        """What the base and an adapted model find on the picture, for which one must have been set."""
        start = time.perf_counter()
        base, of_base = self._find(BASE, 0.0, asked)
        adapted, of_adapted = self._find(adapter, dial, asked)
        return Answer(tuple(asked), base, adapted, adapter, dial, of_base + of_adapted, time.perf_counter() - start)

    def full_size(self, asked: Sequence[Ask], adapter: str, dial: float) -> list[Found]:
        """What the adapted model finds, with masks at the size of the picture itself."""
        picture = self._picture
        return self._models.find(adapter, dial, picture, asked, picture.image.size) if picture and asked else []

    def _find(self, name: str, dial: float, asked: Sequence[Ask]) -> tuple[tuple[Found, ...], int]:
        picture = self._picture
        assert picture is not None
        missing = [ask for ask in asked if (name, dial, ask) not in self._answers]
        if missing:
            found = self._models.find(name, dial, picture, missing, picture.shown_size)
            self._answers |= {(name, dial, ask): one for ask, one in zip(missing, found, strict=True)}
        answers = []
        for ask in asked:
            self._answers.move_to_end((name, dial, ask))
            answers.append(self._answers[name, dial, ask])
        while len(self._answers) > _ANSWERS:
            self._answers.popitem(last=False)
        return tuple(answers), len(missing)
