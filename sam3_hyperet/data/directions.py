"""Names that tell left from right: an image of "left hand" that is mirrored shows a right hand."""

import re
from collections.abc import Iterable

from sam3_hyperet.data.annotations import Category

_WORDS = frozenset(
    (
        *("left", "right", "leftmost", "rightmost", "leftward", "rightward", "leftwards", "rightwards"),
        *("lefthand", "righthand", "leftside", "rightside", "clockwise", "anticlockwise", "counterclockwise"),
        *("starboard", "portside", "larboard"),
        *("linke", "linker", "linkes", "linken", "links", "rechte", "rechter", "rechtes", "rechten", "rechts"),
        *(
            "gauche",
            "droite",
            "izquierda",
            "izquierdo",
            "derecha",
            "derecho",
            "sinistra",
            "sinistro",
            "destra",
            "destro",
        ),
        *("esquerda", "esquerdo", "direita", "direito", "слева", "справа", "левый", "правый", "левая", "правая"),
    )
)
_SIGNS = ("左", "右", "왼", "오른", "←", "→", "↶", "↷", "↺", "↻")


def directional(categories: Iterable[Category], absent_concepts: Iterable[str] = ()) -> list[str]:
    """The categories whose name or a synonym tells left from right, and such absent concepts.

    A single letter, as in "hip L", counts where its partner "hip R" is there.
    """
    names: dict[str, tuple[str, ...]] = {name: (name,) for name in absent_concepts}
    names |= {category.name: (category.name, *category.synonyms) for category in categories}
    every = {tuple(_words(text)) for texts in names.values() for text in texts}
    return [name for name, texts in names.items() if any(_tells(text, every) for text in texts)]


def _tells(text: str, every: set[tuple[str, ...]]) -> bool:
    words = _words(text)
    sides = {"l": "r", "r": "l"}
    has_partner = any(
        word in sides and len(words) > 1 and (*words[:at], sides[word], *words[at + 1 :]) in every
        for at, word in enumerate(words)
    )
    return has_partner or not _WORDS.isdisjoint(words) or any(sign in text for sign in _SIGNS)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())
