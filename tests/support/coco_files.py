"""A small COCO file, and RLEs of its one image."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]


def annotation(number=1, **changes):
    plain = {
        "id": number,
        "image_id": 7,
        "category_id": 3,
        "iscrowd": 0,
        "bbox": [2, 2, 10, 10],
        "segmentation": SQUARE,
    }
    return {**plain, **changes}


def content():
    return {
        "images": [{"id": 7, "file_name": "a.png", "height": 20, "width": 30}],
        "categories": [
            {"id": 3, "name": "cat", "supercategory": "animal"},
            {"id": 5, "name": "dog", "supercategory": "animal"},
        ],
        "annotations": [annotation()],
    }


def rle(size=(20, 30), area=True, compressed=True):
    mask = np.zeros(size, np.uint8)
    mask[4:9, 3:17] = area
    encoded = coco_mask.encode(np.asfortranarray(mask))
    if compressed:
        return {"size": list(size), "counts": encoded["counts"].decode()}
    flat = mask.T.reshape(-1)
    runs = np.diff([0, *(np.flatnonzero(np.diff(flat)) + 1), len(flat)]).tolist()
    return {"size": list(size), "counts": runs}
