"""Which concepts to ask of an image: those it shows, and those it does not, the confusable ones first."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from sam3_hyperet.data.annotations import Category
from sam3_hyperet.data.hierarchy import ConceptTree
from sam3_hyperet.errors import ConfigError

BEYOND = "absent_concepts"  # the name of their weight among the negative ones


@dataclass(frozen=True)
class Prompt:
    """A text to ask of an image, the category it stands for, and whether the image shows it."""

    text: str
    category_id: int
    present: bool


def prompt_texts(categories: Sequence[Category]) -> dict[int, tuple[str, ...]]:
    """Each category's name and synonyms, without those that others bear (ADE20K has "screen" three times)."""
    bearers = Counter(word for category in categories for word in {category.name, *category.synonyms})
    return {c.id: (c.name, *dict.fromkeys(w for w in c.synonyms if bearers[w] == 1)) for c in categories}


class PromptSampler:
    """Draws an image's prompts: present categories, then absent ones.

    num_positives: at most this many present categories (None: all).
    num_negatives: this many absent ones, as far as there are any.
    hard_negative_ratio: the share of negatives drawn from the siblings of what the image shows; the others from all.
    synonyms: the probability that a prompt uses a synonym (one that no other category bears) for its name.
    weights: e.g. {"group": 0.5, "object": 0.5}, of granularities or of `groups`; each draw first picks one among those
        with candidates left. Categories of none of them are never prompted. None: all alike.
    negative_weights: the same for absent categories, where it is to differ from `weights`. `absent_concepts` are drawn
        under that name where it is given, else as of granularity "object".
    groups: category ids by name.
    never_absent: ids of categories that are never negatives, such as those without any annotation.
    absent_concepts: names of further concepts that no image shows, drawn as negatives alone, under ids of their own.
    exhaustive: the annotations are complete at every granularity, so that the absence of a concept above a present one
        may be asked for; otherwise what a present concept implies is no negative.
    A draw depends on the arguments and the generator alone. Raises ConfigError for impossible options.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        *,
        num_positives: int | None = None,
        num_negatives: int = 4,
        hard_negative_ratio: float = 0.5,
        synonyms: float = 0.0,
        weights: Mapping[str, float] | None = None,
        negative_weights: Mapping[str, float] | None = None,
        groups: Mapping[str, Collection[int]] = MappingProxyType({}),
        never_absent: Collection[int] = (),
        absent_concepts: Sequence[str] = (),
        exhaustive: bool = False,
    ) -> None:
        for option, share in (("hard_negative_ratio", hard_negative_ratio), ("synonyms", synonyms)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{option} is {share}, expected a share from 0 to 1")
        for option, number in (("num_positives", num_positives), ("num_negatives", num_negatives)):
            if number is not None and number < 0:
                raise ConfigError(f"{option} is {number}, expected at least 0")
        if num_positives == 0 and num_negatives == 0:
            raise ConfigError("num_positives and num_negatives are both 0: nothing would be prompted")
        if negative_weights and not weights:
            raise ConfigError("negative_prompt_weights needs prompt_weights beside it")
        self._present = _Shares.of(weights, categories, groups, "prompt_weights")
        self._absent = self._present
        if negative_weights:
            self._absent = _Shares.of(negative_weights, categories, groups, "negative_prompt_weights")
        self.categories = tuple(c for c in categories if c.id in self._present.name_of or c.id in self._absent.name_of)
        first = 1 + max(c.id for c in categories)
        self._absent = self._absent.with_more(range(first, first + len(absent_concepts)))
        named = dict(enumerate(absent_concepts, start=first))
        self._beyond = {concept: name for concept, name in named.items() if concept in self._absent.name_of}
        self.never_absent, self.absent_concepts = frozenset(never_absent), tuple(self._beyond.values())
        self._exhaustive = exhaustive
        self.num_positives, self.num_negatives = num_positives, num_negatives
        self.hard_negative_ratio, self.synonyms = hard_negative_ratio, synonyms
        self._texts = prompt_texts(categories) | {concept: (name,) for concept, name in self._beyond.items()}
        self._words = {c.id: {word.lower() for word in (c.name, *c.synonyms)} for c in categories}
        self._tree = ConceptTree(categories)

    @property
    def texts(self) -> tuple[str, ...]:
        """All that a draw may ask for: names, synonyms where these are drawn, and absent concepts."""
        said = (self._texts[one] for one in (*(c.id for c in self.categories), *self._beyond))
        return tuple(text for texts in said for text in (texts if self.synonyms else texts[:1]))

    def sample(
        self, present: Collection[int], unknown: Collection[int], rng: np.random.Generator
    ) -> tuple[Prompt, ...]:
        """Prompts for an image that shows categories `present` and may show those `unknown`; empty if none are left."""
        shown_here = [c.id for c in self.categories if c.id in present and c.id in self._present.name_of]
        absent = self.absent(present, unknown)
        n_positive = len(shown_here) if self.num_positives is None else min(self.num_positives, len(shown_here))
        n_negative = min(self.num_negatives, len(absent))
        if n_positive + n_negative == 0:
            n_positive, n_negative = (0, 1) if absent else (min(1, len(shown_here)), 0)
        beside = {sibling for concept in present for sibling in self._tree.siblings(concept)}
        drawn = self._draw(shown_here, (), n_positive, self._present, rng)
        drawn += self._draw(absent, beside, n_negative, self._absent, rng)
        return tuple(Prompt(self._text(concept, rng), concept, i < n_positive) for i, concept in enumerate(drawn))

    def absent(self, present: Collection[int], unknown: Collection[int]) -> list[int]:
        """Concepts that an image may be prompted with as absent; the arguments as for `sample`."""
        implied = {above for concept in present for above in self._tree.implied(concept) if not self._exhaustive}
        said = {word for concept in present for word in self._words.get(concept, ())}
        excluded = {*present, *unknown, *implied, *self.never_absent}
        drawn = [c for c in self.categories if c.id in self._absent.name_of]
        return [*(c.id for c in drawn if c.id not in excluded and c.name.lower() not in said), *self._beyond]

    def _draw(
        self,
        candidates: list[int],
        preferred: Collection[int],
        number: int,
        shares: "_Shares",
        rng: np.random.Generator,
    ) -> list[int]:
        """`number` of the candidates without repetition."""
        weights = shares.weights
        left = {group: [c for c in candidates if shares.name_of[c] == group] for group in weights}
        drawn: list[int] = []
        for _ in range(number):
            groups = [group for group, ids in left.items() if ids]
            chances = np.asarray([weights[group] for group in groups])
            ids = left[groups[int(rng.choice(len(groups), p=chances / chances.sum()))]]
            pool = [c for c in ids if c in preferred] if rng.random() < self.hard_negative_ratio else []
            choice = (pool or ids)[int(rng.integers(len(pool or ids)))]
            ids.remove(choice)
            drawn.append(choice)
        return drawn

    def _text(self, concept: int, rng: np.random.Generator) -> str:
        name, *synonyms = self._texts[concept]
        use = synonyms and rng.random() < self.synonyms
        return synonyms[int(rng.integers(len(synonyms)))] if use else name


@dataclass(frozen=True)
class _Shares:
    """Weights above 0 by name, and the name that each category id is drawn under; one name, "", where none are stated.

    excluded: names of weight 0. option: what states them.
    """

    weights: Mapping[str, float]
    name_of: Mapping[int, str]
    excluded: frozenset[str] = frozenset()
    option: str = ""

    @classmethod
    def of(
        cls,
        stated: Mapping[str, float] | None,
        categories: Sequence[Category],
        groups: Mapping[str, Collection[int]],
        option: str,
    ) -> "_Shares":
        if not categories:
            raise ConfigError("there are no categories to prompt")
        if not stated:
            return cls({"": 1.0}, {c.id: "" for c in categories})
        levels = sorted({c.granularity for c in categories})
        members = {level: {c.id for c in categories if c.granularity == level} for level in levels}
        members |= {name: {c.id for c in categories} & set(ids) for name, ids in groups.items()} | {BEYOND: set()}
        for name, weight in stated.items():
            if name not in members:
                raise ConfigError(f"{option} names {name!r}; expected some of {', '.join(members)}")
            if not (np.isfinite(weight) and weight >= 0):
                raise ConfigError(f"{option} gives {name!r} the weight {weight}, expected a number from 0")
        weights = {name: float(weight) for name, weight in stated.items() if weight > 0}
        if not weights:
            raise ConfigError(f"{option} gives all of {', '.join(stated)} the weight 0: nothing would be prompted")
        name_of: dict[int, str] = {}
        for name in weights:
            for category in categories:
                if category.id in members[name] and (other := name_of.setdefault(category.id, name)) != name:
                    raise ConfigError(
                        f"{option}: {category.name!r} is of both {other!r} and {name!r}; expected names without a "
                        "category in common"
                    )
        return cls(weights, name_of, frozenset(stated) - weights.keys(), option)

    def with_more(self, concepts: Collection[int]) -> "_Shares":
        """The same with absent concepts under their own name, where it is stated, else as objects."""
        if not concepts or not self.option:
            return replace(self, name_of={**self.name_of, **dict.fromkeys(concepts, "")})
        stated = self.weights.keys() | self.excluded
        if not (names := [name for name in (BEYOND, "object") if name in stated]):
            raise ConfigError(
                f"{self.option}: absent_concepts are given, and none would be drawn; expected their weight as "
                f"{BEYOND}, 0 for none"
            )
        if names[0] in self.excluded:
            return self
        return replace(self, name_of={**self.name_of, **dict.fromkeys(concepts, names[0])})
