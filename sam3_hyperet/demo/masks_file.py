"""Masks to download: a COCO file, or PNG files in a ZIP."""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence

from sam3_hyperet import masks
from sam3_hyperet.demo.models import Found, Picture, distinct
from sam3_hyperet.demo.prompts import Ask
from sam3_hyperet.inference.coco_results import coco_result
from sam3_hyperet.overlays.addresses import mask_png

_NOT_IN_NAMES = re.compile(r"[^\w-]+")


def coco_json(
    picture: Picture, asked: Sequence[Ask], found: Sequence[Found], threshold: float, facts: Mapping[str, object]
) -> str:
    """The detections that are drawn as a COCO file with scores; `facts` are its `info`."""
    width, height = picture.image.size
    annotations: list[dict[str, object]] = []
    for category, mask, score in _shown(found, threshold):
        result = coco_result(1, category + 1, masks.box(mask), mask, score)
        annotations.append({"id": len(annotations) + 1, **result, "area": masks.area(mask), "iscrowd": 0})
    content = {
        "info": dict(facts),
        "images": [{"id": 1, "file_name": picture.name, "width": width, "height": height}],
        "categories": [{"id": number, "name": ask.label} for number, ask in enumerate(asked, start=1)],
        "annotations": annotations,
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def png_zip(asked: Sequence[Ask], found: Sequence[Found], threshold: float) -> bytes:
    """The masks of the detections that are drawn, white on black, as `wheel_1_0.87.png` and so on."""
    buffer, ranks = io.BytesIO(), dict[int, int]()
    with zipfile.ZipFile(buffer, "w") as archive:
        for category, mask, score in _shown(found, threshold):
            ranks[category] = rank = ranks.get(category, 0) + 1
            name = _NOT_IN_NAMES.sub("_", asked[category].label)[:60]
            archive.writestr(f"{category + 1}_{name}_{rank}_{score:.2f}.png", mask_png(mask))
    return buffer.getvalue()


def _shown(found: Sequence[Found], threshold: float) -> Iterator[tuple[int, masks.Rle, float]]:
    """Each prompt's position, a mask and its score."""
    for position, one in enumerate(found):
        for k in distinct(one, threshold):
            yield position, one.masks[k], one.scores[k]
