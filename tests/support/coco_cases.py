"""COCO sets of two pictures a split, as labelling tools export them, and what is right for each.

A case changes the content of both annotation files, or the files of a split's folder, of a plain set with a car and a
house on each picture. Expected are the instances of a split and what is counted as dropped and repaired, or a part of
the message that refuses the set.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 64, 96


@dataclass(frozen=True)
class Case:
    """What to change, and the instances, drops and repairs of each split, or the message that refuses it."""

    change: Callable[[dict[str, Any]], object]
    instances: int = 4
    repaired: dict[str, int] | None = None
    dropped: dict[str, int] | None = None
    refused: str = ""
    files: Callable[[Path], object] | None = None  # of the root, once written

    @property
    def counts(self) -> tuple[Counter[str], Counter[str]]:
        return Counter(self.dropped or {}), Counter(self.repaired or {})


def plain() -> dict[str, Any]:
    """The content of an annotation file."""
    boxes = [(1, 1, 8, 10), (1, 2, 52, 10), (2, 1, 9, 17), (2, 2, 53, 17)]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": category,
            "bbox": [x, y, 28, 22],
            "area": 550,
            "iscrowd": 0,
            "segmentation": [[x, y + 4, x + 14, y, x + 28, y + 4, x + 28, y + 22, x, y + 22]],
        }
        for number, (image, category, x, y) in enumerate(boxes, start=1)
    ]
    names = ("car", "vehicle"), ("house", "building"), ("dog", "animal")
    return {
        "images": [{"id": n, "file_name": f"000{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": n, "name": name, "supercategory": s} for n, (name, s) in enumerate(names, start=1)],
    }


def write_case(root: Path, case: Case) -> Path:
    """Write COCO's tree below `root`, for splits "train" and "val", and return it."""
    (root / "annotations").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for split in ("train", "val"):
        (root / split).mkdir()
        for n in (1, 2):
            Image.fromarray(pixels).save(root / split / f"000{n}.png")
        content = plain()
        changed = case.change(content)
        file = root / "annotations" / f"instances_{split}.json"
        file.write_bytes(changed if isinstance(changed, bytes) else json.dumps(content).encode())
    if case.files:
        case.files(root)
    return root


def each(part: str, key: str, value: Callable[[dict[str, Any]], Any] | Any) -> Callable[[dict[str, Any]], None]:
    """Set a key of each record of a part, to a value or to what a function makes of the record."""

    def change(content: dict[str, Any]) -> None:
        for record in content[part]:
            record[key] = value(record) if callable(value) else value

    return change


def first(part: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set a key of a part's first record."""
    return lambda content: content[part][0].update({key: value})


def without(part: str, key: str) -> Callable[[dict[str, Any]], None]:
    """Take a key out of each record of a part."""

    def change(content: dict[str, Any]) -> None:
        for record in content[part]:
            del record[key]

    return change


def top(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Set keys of the file itself."""
    return lambda content: content.update(values)


def all_of(*changes: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    """One change after the other."""

    def change(content: dict[str, Any]) -> None:
        for one in changes:
            one(content)

    return change


def encoded(encoding: str) -> Callable[[dict[str, Any]], bytes]:
    """The file in another encoding."""
    return lambda content: json.dumps({**content, "note": "été"}, ensure_ascii=False).encode(encoding)


def outline(make: Callable[[list[float]], Any]) -> Callable[[dict[str, Any]], None]:
    """Write each outline otherwise."""
    return each("annotations", "segmentation", lambda record: make(record["segmentation"][0]))


def pairs(polygon: list[float]) -> list[list[float]]:
    return [list(point) for point in zip(polygon[::2], polygon[1::2], strict=True)]


def mask(record: dict[str, Any], order: str = "F") -> dict[str, Any]:
    """The annotation's box, which lies in one corner more than the other, as uncompressed run lengths."""
    x, y, width, height = record["bbox"]
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[y : y + height, x : x + width] = 1
    flat = values.ravel(order=order)
    edges = np.flatnonzero(np.diff(flat)) + 1
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, len(flat)]).tolist()}


def packed(record: dict[str, Any]) -> dict[str, Any]:
    """The same, compressed."""
    from pycocotools import mask as coco_mask

    return coco_mask.frPyObjects(mask(record), HEIGHT, WIDTH)


def category(**values: Any) -> Callable[[dict[str, Any]], None]:
    """One category more."""
    return lambda content: content["categories"].append(values)


def named(pattern: str) -> Callable[[dict[str, Any]], None]:
    """Images of other file names; {} is the name that is there."""
    return each("images", "file_name", lambda record: pattern.format(record["file_name"]))


def moved(to: Callable[[str], str]) -> Callable[[Path], None]:
    """Images under other names or in folders below."""

    def move(root: Path) -> None:
        for file in [*root.glob("train/*.png"), *root.glob("val/*.png")]:
            target = file.parent / to(file.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)

    return move


def roboflow_root(content: dict[str, Any]) -> None:
    """A synthetic root of the name of a class, which has no annotation."""
    content["categories"].insert(0, {"id": 0, "name": "car", "supercategory": "none"})
    for record in content["categories"][1:]:
        record["supercategory"] = "car"
