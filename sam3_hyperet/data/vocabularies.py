"""Vocabularies known by a name.

`ov_base` and `ov_novel`: the split of Bansal et al., Zero-Shot Object Detection (ECCV 2018), which OVR-CNN (CVPR 2021)
and its successors report AP on: 48 of COCO's categories to train with, 17 novel ones. The other 15 of its 80 belong to
neither. `scenes_known` and `scenes_held_out`: the drawn scenes' concepts in two halves, of which a base is pretrained
on the first. `everyday`: concrete nouns of which no scene shows any, nor a part or a kind of any.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from sam3_hyperet.data.annotations import Category, prompt_name, same_prompts, some, spoken
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.scenes.concepts import CONCEPTS, HELD_OUT

COCO_BASE = (
    *("person", "bicycle", "car", "motorcycle", "train", "truck", "boat", "bench", "bird", "horse", "sheep", "bear"),
    *("zebra", "giraffe", "backpack", "handbag", "suitcase", "frisbee", "skis", "kite", "surfboard", "bottle", "fork"),
    *("spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "pizza", "donut", "chair", "bed"),
    *("toilet", "tv", "laptop", "mouse", "remote", "microwave", "oven", "toaster", "refrigerator", "book", "clock"),
    *("vase", "toothbrush"),
)
COCO_NOVEL = (
    *("airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard", "skateboard", "cup", "knife"),
    *("cake", "couch", "keyboard", "sink", "scissors"),
)
EVERYDAY = (
    *("airplane", "helicopter", "rocket", "boat", "ship", "truck", "tractor", "motorcycle", "bicycle", "scooter"),
    *("bird", "cat", "horse", "sheep", "cow", "pig", "elephant", "bear", "zebra", "giraffe", "lion", "monkey"),
    *("rabbit", "fish", "snake", "frog", "spider", "turtle", "duck", "penguin", "butterfly", "bee", "chair", "table"),
    *("sofa", "bed", "desk", "shelf", "lamp", "mirror", "clock", "vase", "carpet", "curtain", "pillow", "blanket"),
    *("towel", "bathtub", "sink", "toilet", "oven", "toaster", "refrigerator", "microwave", "candle", "basket"),
    *("cup", "bowl", "plate", "spoon", "fork", "knife", "bottle", "kettle", "teapot", "apple", "banana", "carrot"),
    *("pizza", "cake", "sandwich", "donut", "bread", "cheese", "egg", "pumpkin", "pineapple", "strawberry", "book"),
    *("newspaper", "pencil", "scissors", "telephone", "laptop", "keyboard", "camera", "television", "radio"),
    *("printer", "microphone", "guitar", "piano", "drum", "violin", "trumpet", "ball", "kite", "balloon", "doll"),
    *("puzzle", "skateboard", "surfboard", "snowboard", "frisbee", "umbrella", "backpack", "suitcase", "wallet"),
    *("necklace", "crayon", "hammer", "screwdriver", "ladder", "rope", "bucket", "broom", "needle", "anchor"),
    *("bench", "flag", "tent", "statue", "fountain", "snowman"),
)
VOCABULARIES: dict[str, tuple[str, ...]] = {
    "ov_base": COCO_BASE,
    "ov_novel": COCO_NOVEL,
    "ov_all": COCO_BASE + COCO_NOVEL,
    "scenes_known": tuple(name for name in CONCEPTS if name not in HELD_OUT),
    "scenes_held_out": HELD_OUT,
    "everyday": EVERYDAY,
}


def vocabulary_ids(names: str | Sequence[str], categories: Iterable[Category], option: str) -> tuple[int, ...]:
    """The ids of the categories with these names, or those of one of `VOCABULARIES`. Raises ConfigError."""
    names = listed(names)
    categories = list(categories)
    known = {category.name for category in categories}
    if not names or any(not isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise ConfigError(f"{option}={list(names)!r}; expected category names, each once, or {', '.join(VOCABULARIES)}")
    if strange := [name for name in names if spoken(name) not in known]:
        raise ConfigError(
            f"{option}: {some(strange)} not among the data set's {len(known)} category names {some(sorted(known), 9)}, "
            f"nor a list of them, {', '.join(VOCABULARIES)}"
        )
    names = tuple(map(spoken, names))
    return tuple(category.id for category in categories if category.name in names)


def listed(names: str | Sequence[str]) -> Sequence[str]:
    """The names of a list that is known by its name, of a text with commas, or as they are."""
    if not isinstance(names, str):
        return names
    return VOCABULARIES.get(names) or tuple(name.strip() for name in names.split(","))


def absent_concepts(
    names: str | Sequence[str],
    categories: Iterable[Category],
    left_out: Collection[str] = (),
    option: str = "data.absent_concepts",
) -> tuple[str, ...]:
    """Those of the names, or of one of `VOCABULARIES`, that no category bears, also as synonym; none that is left out.

    left_out: names in lower case, of what images may show without annotation. option: where the names are from, for
    messages. Raises ConfigError.
    """
    borne = {word.lower() for category in categories for word in (category.name, *category.synonyms)}.union(left_out)
    try:
        found = same_prompts(prompt_name(name, option) for name in listed(names))
    except DataError as error:
        raise ConfigError(str(error)) from None
    return tuple(name for name in dict.fromkeys(found.values()) if name.lower() not in borne)


def without_phrases_of(names: Iterable[str], categories: Iterable[Category]) -> tuple[list[Category], list[str]]:
    """The categories without the synonyms in which one of the names occurs as words, and these synonyms."""
    others = {name.lower() for name in names}
    kept, lost = list[Category](), list[str]()
    for category in categories:
        said = [synonym for synonym in category.synonyms if not others.isdisjoint(_phrases_in(synonym))]
        lost += said
        kept.append(replace(category, synonyms=tuple(one for one in category.synonyms if one not in said)))
    return kept, lost


def _phrases_in(text: str) -> Iterator[str]:
    """Each row of words in a text, in lower case."""
    words = text.lower().split()
    return (" ".join(words[i : j + 1]) for i in range(len(words)) for j in range(i, len(words)))
