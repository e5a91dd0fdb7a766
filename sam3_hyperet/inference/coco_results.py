"""Detections as COCO's results files have them."""

from collections.abc import Sequence
from typing import Any

from sam3_hyperet.masks import Rle


def coco_result(image_id: int, category_id: int, box: Sequence[float], mask: Rle, score: float) -> dict[str, Any]:
    """A detection: box [x, y, width, height] in pixels, mask as run lengths."""
    found = {"bbox": list(box), "segmentation": mask, "score": score}
    return {"image_id": image_id, "category_id": category_id, **found}
