"""A COCO tree of images of noise, all different, with one outline each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_noise_tree(
    root: Path,
    categories: Sequence[Mapping[str, object]],
    counts: Mapping[str, int],
    size: tuple[int, int],
    outline: Sequence[int],
) -> None:
    """Write so many images of each split, of height and width `size`, in turn of categories 2 and 1.

    outline: the polygon of every annotation, whose box is 8, 8, 32, 32.
    """
    (root / "annotations").mkdir(parents=True)
    for part, (split, count) in enumerate(counts.items()):
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(1 + 10 * part, 1 + 10 * part + count):
            pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]})
            shape = {"segmentation": [list(outline)], "bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0}
            annotations.append({"id": number, "image_id": number, "category_id": 1 + number % 2, **shape})
        content = {"images": images, "annotations": annotations, "categories": list(categories)}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
