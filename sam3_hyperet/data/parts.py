"""Categories whose names hold an object and its part: what to ask for them, and which of them training may see."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sam3_hyperet.data.annotations import AnnotatedImages, Category, prompt_name, some, spoken
from sam3_hyperet.data.subsets import Subset
from sam3_hyperet.data.vocabularies import vocabulary_ids
from sam3_hyperet.errors import ConfigError, DataError

SEEN, UNSEEN = "seen", "unseen"
_FIELDS = {"object": "(?P<object>.+?)", "part": "(?P<part>.+)"}


class WithParts(Subset):
    """A data set with its categories renamed, and those that name an object and its part as parts of the object.

    A part is asked for as "wheel of a car", with "car wheel" as a synonym. Its parent is the object where that is a
    category. A supercategory that all objects share says nothing and is left out.
    """

    def __init__(
        self, whole: AnnotatedImages, template: str, renamed: Mapping[str, str], *, all_fit: bool = True
    ) -> None:
        """template: such as "{object}:{part}", "" for no parts. renamed: names by those of the files, in any case.
        all_fit: false where these are the options of other files, of which some may not be for these.

        Raises ConfigError for a template that fits no category or a name that none has, DataError for names that are
        the same then.
        """
        super().__init__(whole, range(len(whole)))
        names = _Names(renamed)
        pattern = _pattern(template) if template else None
        fits = {c.id: pattern.fullmatch(c.name) if pattern else None for c in whole.categories}
        objects = [c for c in whole.categories if not fits[c.id]]
        ids = {c.name.lower(): c.id for c in objects}
        shared = {(c.supercategory, c.parents) for c in objects}
        self.categories = tuple(
            _part(c, match, names, ids) if (match := fits[c.id]) else _object(c, names, pattern and len(shared) == 1)
            for c in whole.categories
        )
        if all_fit and (left := names.unused()):
            raise ConfigError(
                f"data.renamed: {some(left)} not among the names of {whole.name}, its objects and parts; it has "
                f"{some((c.name for c in whole.categories), 9)}"
            )
        if twice := [name for name, n in Counter(c.name.lower() for c in self.categories).items() if n > 1]:
            raise DataError(f"{whole.name}: two categories are called {some(twice)}; expected names that differ")
        parts = [c for c in self.categories if c.part]
        if all_fit and template and not parts:
            raise ConfigError(
                f"data.parts={template} fits none of the categories {some((c.name for c in whole.categories), 5)}"
            )
        if parts:
            count = len({c.whole for c in parts})
            self.remarks += (
                f"{len(parts)} of {len(self.categories)} categories are parts of {count} objects, asked for as "
                f"{parts[0].name!r}",
            )


def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", spoken(template))
    if sorted(pieces[1::2]) != sorted(_FIELDS) or not pieces[2]:
        expected = 'expected {object} and {part} with something between them, such as "{object}:{part}"'
        raise ConfigError(f"data.parts={template}; {expected}")
    return re.compile(
        "".join(_FIELDS[piece] if number % 2 else re.escape(piece) for number, piece in enumerate(pieces))
    )


class _Names:
    """What to call the names of the files; keeps which were asked for."""

    def __init__(self, renamed: Mapping[str, str]) -> None:
        try:
            self._said = {spoken(name).lower(): prompt_name(to, "data.renamed") for name, to in renamed.items()}
        except DataError as error:
            raise ConfigError(str(error)) from None
        self._used = set[str]()

    def of(self, name: str) -> str:
        self._used.add(name.lower())
        return self._said.get(name.lower(), name)

    def unused(self) -> list[str]:
        return [name for name in self._said if name not in self._used]


def _object(category: Category, names: _Names, alone: object) -> Category:
    """alone: whether there is but one supercategory."""
    found = replace(category, name=names.of(category.name))
    return replace(found, supercategory="", parents=()) if alone else found


def _part(category: Category, match: re.Match[str], names: _Names, objects: Mapping[str, int]) -> Category:
    whole, part = match["object"].strip(), match["part"].strip()
    parent = objects.get(whole.lower())
    whole, part = names.of(whole).lower(), names.of(part).lower()
    article = "an" if whole[0] in "aeiou" else "a"
    return Category(
        category.id,
        f"{part} of {article} {whole}",
        (f"{whole} {part}",),
        "part",
        () if parent is None else (parent,),
        part=part,
        whole=whole,
    )


def groups_of(unseen: Sequence[str], categories: Sequence[Category]) -> dict[str, tuple[int, ...]]:
    """Ids of `seen` and `unseen` parts, or of categories where none is a part. Raises ConfigError."""
    if not unseen:
        return {}
    hidden = unseen_ids(unseen, categories)
    scored = [c.id for c in categories if c.part] or [c.id for c in categories]
    groups = {SEEN: tuple(i for i in scored if i not in hidden), UNSEEN: tuple(i for i in scored if i in hidden)}
    if not groups[SEEN]:
        raise ConfigError(f"data.unseen={list(unseen)} leaves nothing to train on; expected some of the objects")
    return {name: ids for name, ids in groups.items() if ids}


def unseen_ids(unseen: Sequence[str], categories: Sequence[Category]) -> frozenset[int]:
    """Ids of the objects of these names and of their parts. Raises ConfigError for a name of none."""
    names = {spoken(name).lower() for name in unseen}
    known = {name.lower() for c in categories for name in (c.whole or c.name,)}
    if strange := sorted(names - known):
        raise ConfigError(f"data.unseen: {some(strange)} not among the {len(known)} objects {some(sorted(known), 9)}")
    return frozenset(c.id for c in categories if (c.whole or c.name).lower() in names)


def prompted_ids(
    prompts: str | Sequence[str], unseen: Sequence[str], categories: Sequence[Category]
) -> tuple[int, ...] | None:
    """Ids of what training may ask for, by `data.prompts` and `data.unseen`; None for all. Raises ConfigError."""
    asked = vocabulary_ids(prompts, categories, "data.prompts") if prompts else None
    if not unseen:
        return asked
    hidden = unseen_ids(unseen, categories)
    if both := [c.name for c in categories if asked and c.id in hidden and c.id in asked]:
        raise ConfigError(f"data.prompts: {some(both)} of data.unseen={list(unseen)}, which training must not see")
    return tuple(c.id for c in categories if c.id not in hidden and (asked is None or c.id in asked))
