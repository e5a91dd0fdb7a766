"""Vocabularies known by a name: the base and the novel categories of open-vocabulary detection on COCO.

The split is that of Bansal et al., Zero-Shot Object Detection (ECCV 2018), which OVR-CNN (CVPR 2021) and its successors
report AP on: 48 base categories to train with, 17 novel ones. The other 15 of COCO's 80 belong to neither.
"""

from collections.abc import Iterable, Sequence

from sam3_hyperet.data.annotations import Category, prompt_name, some, spoken
from sam3_hyperet.errors import ConfigError, DataError

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
VOCABULARIES = {"ov_base": COCO_BASE, "ov_novel": COCO_NOVEL, "ov_all": COCO_BASE + COCO_NOVEL}


def vocabulary_ids(names: str | Sequence[str], categories: Iterable[Category], option: str) -> tuple[int, ...]:
    """The ids of the categories with these names, or those of one of `VOCABULARIES`. Raises ConfigError."""
    names = _listed(names)
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


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    """The names of a list that is known by its name, of a text with commas, or as they are."""
    if not isinstance(names, str):
        return names
    return VOCABULARIES.get(names) or tuple(name.strip() for name in names.split(","))


def absent_concepts(names: str | Sequence[str], categories: Iterable[Category]) -> tuple[str, ...]:
    """Those of the names, or of one of `VOCABULARIES`, that no category bears, also as synonym. Raises ConfigError."""
    names = _listed(names)
    borne = {word.lower() for category in categories for word in (category.name, *category.synonyms)}
    try:
        found = dict.fromkeys(prompt_name(name, "data.absent_concepts") for name in names)
    except DataError as error:
        raise ConfigError(str(error)) from None
    return tuple(name for name in found if name.lower() not in borne)
