"""The pictures of `exports`, what is in them, and what a reader is to see of them.

`seen` reads a set back in terms of these pictures, so that layouts can be compared:
`seen(open_split(options, "val").images) == expected("val")`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

WIDTH, HEIGHT = 96, 64
CATEGORIES = {"car": (200, 40, 40), "dog": (60, 160, 60), "house": (50, 60, 200)}  # with their colours
SUPERCATEGORIES = {"car": "vehicle", "dog": "animal", "house": "building"}


@dataclass(frozen=True)
class Picture:
    """A picture; each box is a category and x, y, width and height of a filled rectangle, none over another."""

    name: str  # a path with "/"
    boxes: tuple[tuple[str, int, int, int, int], ...]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def data(self) -> bytes:
        """The bytes of its file."""
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        ground = np.stack([rows + 90, columns + 90, np.full_like(rows, 40 + hash_of(self.name))], axis=-1)
        pixels = ground.astype(np.uint8)
        for category, x, y, width, height in self.boxes:
            pixels[y : y + height, x : x + width] = CATEGORIES[category]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        return buffer.getvalue()


def hash_of(name: str) -> int:
    """A number from 0 to 99 that tells pictures apart."""
    return sum(name.encode()) % 100


SPLITS: dict[str, tuple[Picture, ...]] = {  # every category in train and val; each at most once a picture, but in two
    "train": (
        Picture("street 1.png", (("car", 8, 10, 28, 22), ("house", 52, 10, 28, 22))),
        Picture("café.png", (("dog", 10, 30, 20, 20),)),
        Picture("IMG_0003.PNG", (("car", 4, 4, 30, 20), ("dog", 60, 34, 24, 24))),
        Picture("lot/0004.png", (("car", 6, 6, 20, 14), ("car", 40, 30, 30, 20))),
        Picture("lot/0005.png", (("house", 20, 12, 40, 40),)),
        Picture("0006.png", (("dog", 50, 8, 30, 30), ("house", 4, 20, 30, 30))),
    ),
    "tune": (
        Picture("0007.png", (("car", 30, 20, 32, 24),)),
        Picture("0008.png", (("house", 10, 10, 30, 40), ("dog", 56, 26, 26, 20))),
    ),
    "val": (
        Picture("0009.png", (("car", 12, 14, 34, 24), ("dog", 60, 10, 22, 30))),
        Picture("yard/0010.png", (("house", 30, 8, 44, 36),)),
        Picture("0011.png", (("dog", 8, 8, 20, 24), ("dog", 44, 30, 30, 22), ("car", 70, 4, 20, 16))),
    ),
}
ALL = tuple(picture for pictures in SPLITS.values() for picture in pictures)

Seen = dict[str, tuple[list[tuple[str, bytes]], set[str]]]
"""By a picture's name: the category and mask of each instance, and the categories that are absent."""


def expected(*splits: str, pictures: Iterable[Picture] = ()) -> Seen:
    """What a reader is to see of some splits, or of some pictures."""
    found = {}
    for picture in (*pictures, *(one for split in splits for one in SPLITS[split])):
        masks = sorted((category, rle(box)["counts"]) for category, *box in picture.boxes)
        found[picture.name] = masks, CATEGORIES.keys() - {category for category, *_ in picture.boxes}
    return found


def seen(images) -> Seen:
    """What a reader sees. Pictures are known by their bytes, whatever the export calls them."""
    names = {picture.data: picture.name for picture in ALL}
    by_id = {category.id: category.name for category in images.categories}
    found = {}
    for i in range(len(images)):
        instances = images.instances(i)
        unknown = images.unlabelled(i) | images.never_absent | {one.category_id for one in instances}
        counts = [one.rle["counts"] for one in instances]
        runs = [one.encode() if isinstance(one, str) else one for one in counts]
        masks = sorted(zip([by_id[one.category_id] for one in instances], runs, strict=True))
        absent = {name for number, name in by_id.items() if number not in unknown}
        found[names[images.image(i).path.read_bytes()]] = masks, absent
    return found


def rle(box: Iterable[int]) -> dict[str, object]:
    """The compressed run lengths of a rectangle."""
    x, y, width, height = box
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    return coco_mask.encode(mask)


def polygon(box: Iterable[int]) -> list[int]:
    """The outline of a rectangle, x, y, x, y, …"""
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def coco_content(
    pictures: Iterable[Picture], file_name: Callable[[Picture], str] = lambda picture: picture.name, first_id: int = 1
) -> dict[str, list[dict[str, object]]]:
    """A COCO file of some pictures."""
    images, annotations = [], []
    ids = {name: number for number, name in enumerate(CATEGORIES, start=first_id)}
    for number, picture in enumerate(pictures, start=first_id):
        images.append({"id": number, "file_name": file_name(picture), "width": WIDTH, "height": HEIGHT})
        for category, *box in picture.boxes:
            annotations.append(
                {
                    "id": len(annotations) + first_id,
                    "image_id": number,
                    "category_id": ids[category],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [polygon(box)],
                }
            )
    categories = [{"id": number, "name": name, "supercategory": SUPERCATEGORIES[name]} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path: Path, content: object) -> None:
    """Write JSON; parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_pictures(
    folder: Path, pictures: Iterable[Picture], name: Callable[[Picture], str] = lambda p: p.name
) -> None:
    """Write pictures below a folder, each under its own name or under another."""
    for picture in pictures:
        path = folder / name(picture)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture.data)
