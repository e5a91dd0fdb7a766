"""Prompts as a person enters them: noun phrases, and boxes on the picture, one a line."""

from collections.abc import Sequence
from dataclasses import dataclass

from sam3_hyperet.choices import VISUAL
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.exemplars import Exemplars

MAX_PROMPTS = 64
_EXPECTED = "expected a line for each box: phrase: x, y, width, height (in pixels; - before it: not this)"


@dataclass(frozen=True)
class Ask:
    """A noun phrase, with boxes on the picture or without; boxes alone have no phrase."""

    phrase: str
    exemplars: Exemplars | None = None

    @property
    def text(self) -> str:
        """What SAM 3's text encoder reads."""
        return self.phrase or VISUAL

    @property
    def label(self) -> str:
        """What people read."""
        return self.phrase or "boxes alone"


@dataclass(frozen=True)
class DrawnBox:
    """A box [x, y, width, height] in pixels, around what the phrase means or, not positive, around what it does not."""

    phrase: str
    box: tuple[float, ...]
    positive: bool

    def __str__(self) -> str:
        numbers = ", ".join(f"{number:g}" for number in self.box)
        return f"{'' if self.positive else '- '}{f'{self.phrase}: ' if self.phrase else ''}{numbers}"


def read_boxes(text: str) -> list[DrawnBox]:
    """The boxes of lines such as `wheel: 12, 30, 40, 20`, or without the phrase a box alone. Raises ConfigError."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        positive = not line.strip().startswith("-")
        phrase, _, numbers = line.strip().removeprefix("-").removeprefix("+").rpartition(":")
        try:
            box = tuple(float(one) for one in numbers.split(","))
        except ValueError:
            box = ()
        if len(box) != 4:
            raise ConfigError(f"line {number} of the boxes is {line.strip()!r:.80}; {_EXPECTED}")
        found.append(DrawnBox(phrase.strip(), box, positive))
    return found


def asks_of(phrases: Sequence[str], boxes: Sequence[DrawnBox], size: tuple[int, int]) -> list[Ask]:
    """The prompts of phrases and boxes on a picture of (width, height), each phrase once. Raises ConfigError."""
    by_phrase: dict[str, list[DrawnBox]] = {phrase.strip(): [] for phrase in phrases if phrase.strip()}
    for one in boxes:
        by_phrase.setdefault(one.phrase, []).append(one)
    if len(by_phrase) > MAX_PROMPTS:
        raise ConfigError(f"{len(by_phrase)} prompts; expected at most {MAX_PROMPTS} at once")
    asks = []
    for phrase, drawn in by_phrase.items():
        positive = [one.positive for one in drawn]
        exemplars = Exemplars.in_pixels([one.box for one in drawn], size, positive) if drawn else None
        asks.append(Ask(phrase, exemplars))
    return asks
