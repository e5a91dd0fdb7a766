"""Files of box exemplars: boxes by image file name, or a COCO file with annotations (docs/evaluation.md)."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from sam3_hyperet.choices import VISUAL
from sam3_hyperet.data.annotations import some, spoken
from sam3_hyperet.data.finding import composed
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.inference.exemplars import Exemplars, fractions
from sam3_hyperet.reading import read_json
from sam3_hyperet.wording import count_of

_KEYS = ("prompt", "box", "positive")
_COCO = ("images", "annotations", "categories")
_EXPECTED = 'expected {"image.jpg": [{"prompt": "car", "box": [x, y, width, height], "positive": true}]}'


@dataclass(frozen=True)
class StatedBox:
    """A box of a file, [x, y, width, height] in pixels; `where` names its record in messages.

    size: width and height of its image, where the file has them.
    """

    prompt: str
    box: tuple[float, ...]
    positive: bool
    where: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class ExemplarFile:
    """The boxes of a file by image name, in order. `ignored` says in one line what of it is left out, "" for nothing.

    is_coco: whether it is a COCO file, which may have more images than are looked at.
    """

    path: Path
    boxes: Mapping[str, Sequence[StatedBox]]
    is_coco: bool = False
    ignored: str = ""

    @property
    def prompts(self) -> list[str]:
        """The prompts of all boxes, each once; `VISUAL` of those that have none."""
        return list(dict.fromkeys(one.prompt for boxes in self.boxes.values() for one in boxes))

    def renamed(self, names: Mapping[str, str]) -> "ExemplarFile":
        """The same with other names of prompts, by those that it has."""
        boxes = {image: [replace(one, prompt=names[one.prompt]) for one in of] for image, of in self.boxes.items()}
        return replace(self, boxes=boxes)

    def by_image(self, paths: Sequence[Path]) -> dict[int, Sequence[StatedBox]]:
        """The boxes by the position of their image, whose path ends in the name.

        Raises DataError for a name that fits several images, and for one that fits none, unless the file is COCO's.
        """
        named: dict[str, list[int]] = {}
        for i, path in enumerate(paths):
            named.setdefault(composed(path.name), []).append(i)
        found: dict[int, Sequence[StatedBox]] = {}
        for name, boxes in self.boxes.items():
            end = PurePosixPath(composed(name.replace("\\", "/"))).parts
            fitting = [i for i in named.get(end[-1] if end else "", []) if _ends_in(paths[i], end)]
            if len(fitting) > 1 or (fitting and fitting[0] in found):
                several = some([str(paths[i]) for i in fitting])
                raise DataError(
                    f"{self.path}: {name}: boxes of {several}; expected one name an image, with its folders"
                )
            if not fitting and not self.is_coco:
                there = some([path.name for path in paths])
                raise DataError(f"{self.path}: {name}: no such image in images=, which has {there}")
            if fitting:
                found[fitting[0]] = boxes
        return found


def exemplars_of(boxes: Sequence[StatedBox], size: tuple[int, int]) -> dict[str, Exemplars]:
    """The exemplars of an image of (width, height) by prompt. Raises DataError naming the record."""
    parts: dict[str, list[StatedBox]] = {}
    for one in boxes:
        if one.size not in (None, size):
            remedy = "; expected exif=ignore or exif=apply, if EXIF turns it" if one.size == size[::-1] else ""
            stated = "{}x{}".format(*one.size)
            raise DataError(f"{one.where}: its image is {size[0]}x{size[1]} pixels, the box is for {stated}{remedy}")
        parts.setdefault(one.prompt, []).append(one)
    found = {}
    for prompt, of_prompt in parts.items():
        if prompt == VISUAL and not any(one.positive for one in of_prompt):
            raise DataError(
                f"{of_prompt[0].where}: there are negative boxes alone; expected a positive one as well, or a prompt"
            )
        cut = []
        for one in of_prompt:
            try:
                cut.append(fractions(one.box, *size))
            except ConfigError as error:
                raise DataError(f"{one.where}: {error}") from None
        found[prompt] = Exemplars(tuple(cut), tuple(one.positive for one in of_prompt))
    return found


def reach_beyond(boxes: Sequence[StatedBox], size: tuple[int, int]) -> int:
    """How many of the boxes reach beyond an image of (width, height), and are cut at its border."""
    return sum(min(b[:2]) < 0 or b[0] + b[2] > size[0] or b[1] + b[3] > size[1] for b in (one.box for one in boxes))


def read_exemplars(path: Path) -> ExemplarFile:
    """Read a file of boxes. Raises DataError naming the file and the record."""
    content = read_json(path)
    if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in _COCO):
        return _read_coco(path, content)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: it is {_kind(content)}; {_EXPECTED}, or a COCO file with annotations")
    boxes: dict[str, list[StatedBox]] = {}
    for name, records in content.items():
        if not isinstance(records, list) or not records:
            raise DataError(f"{path}: {name}: its value is {_kind(records)}; {_EXPECTED}")
        boxes[name] = [_stated(f"{path}: {name}, record {n}", one) for n, one in enumerate(records, start=1)]
    return ExemplarFile(path, boxes)


def _stated(where: str, record: object) -> StatedBox:
    if not isinstance(record, dict) or "box" not in record or not record.keys() <= set(_KEYS):
        keys = some(list(record)) if isinstance(record, dict) else _kind(record)
        raise DataError(f"{where}: it has {keys or 'nothing'}; expected box, and no more than {', '.join(_KEYS)}")
    prompt, positive = record.get("prompt"), record.get("positive", True)
    if prompt is not None and (not isinstance(prompt, str) or not prompt.strip()):
        raise DataError(f"{where}: prompt is {prompt!r:.60}; expected a noun phrase, or none for the box alone")
    if not isinstance(positive, bool):
        raise DataError(f"{where}: positive is {positive!r:.60}; expected true or false")
    return StatedBox(VISUAL if prompt is None else prompt.strip(), _box(where, record["box"]), positive, where)


def _box(where: str, box: object) -> tuple[float, ...]:
    if isinstance(box, list) and len(box) == 4 and all(type(number) in (int, float) for number in box):
        with contextlib.suppress(OverflowError):  # of an integer beyond any float
            return tuple(map(float, box))
    raise DataError(f"{where}: box is {box!r:.60}; expected four numbers, [x, y, width, height] in pixels")


def _read_coco(path: Path, content: Mapping[str, Any]) -> ExemplarFile:
    images = dict(_named(path, "images", content["images"], "file_name"))
    categories = dict(_named(path, "categories", content["categories"], "name"))
    sizes = {
        one["id"]: (one["width"], one["height"]) for one in content["images"] if one.get("width") and one.get("height")
    }
    boxes: dict[str, list[StatedBox]] = {}
    crowds = 0
    for n, one in enumerate(content["annotations"], start=1):
        where = f"{path}: annotation {n}"
        one = one if isinstance(one, dict) else {}
        if one.get("iscrowd"):
            crowds += 1
            continue
        try:
            number, category = one["image_id"], categories[one["category_id"]]
            name = images[number]
        except (LookupError, TypeError):
            raise DataError(f"{where}: expected image_id and category_id of the file's images and categories") from None
        box = StatedBox(spoken(category), _box(where, one.get("bbox")), True, where, sizes.get(number))
        boxes.setdefault(name, []).append(box)
    if not boxes:
        raise DataError(f"{path}: no annotation with a box that is not a crowd's; expected one or more")
    return ExemplarFile(path, boxes, True, f"{path}: {count_of(crowds, 'crowd')} left out" if crowds else "")


def _named(path: Path, key: str, records: Sequence[Any], name: str) -> Iterator[tuple[Any, str]]:
    for n, one in enumerate(records, start=1):
        found = [one.get("id"), one.get(name)] if isinstance(one, dict) else [None, None]
        if not isinstance(found[0], int | str) or not isinstance(found[1], str):
            raise DataError(f"{path}: {key}, record {n}: expected an id and a {name}")
        yield found[0], found[1]


def _ends_in(path: Path, end: Sequence[str]) -> bool:
    return [composed(part) for part in path.parts[-len(end) :]] == list(end)


def _kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    kind = kinds.get(type(value), "a number")
    return f"an empty {kind.split()[-1]}" if value in ({}, [], "") else kind
