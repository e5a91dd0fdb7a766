"""Formats that are known and not read are named, with what to export in their place."""

from __future__ import annotations

import pytest

from sam3_hyperet.errors import DataError
from sam3_hyperet.layouts.table import recognise

UNREAD = {
    "labelme": (
        "a.json",
        '{"version": "5", "shapes": [{"points": []}], "imagePath": "a.jpg"}',
        "labelme's own files: convert them",
    ),
    "labelme, below": ("json/a.json", '{"shapes": [{"points": []}], "imagePath": "a.jpg"}', "labelme's own files"),
    "VIA's project": ("via_project.json", '{"_via_settings": {}}', "VIA's project: export as COCO"),
    "VIA": ("a.json", '{"a.jpg1": {"filename": "a.jpg", "regions": []}}', "VIA's own annotations: export as COCO"),
    "Label Studio": ("a.json", '[{"annotations": [{"result": []}]}]', "Label Studio's own .* COCO, with images"),
    "Datumaro": (
        "annotations/default.json",
        '{"info": {}, "categories": {"label": {"labels": [{"name": "car"}]}}, "items": []}',
        "Datumaro's own annotations: export as COCO 1.0",
    ),
    "CVAT": ("annotations.xml", "<?xml?><annotations><version>1.1", "CVAT for images: export as COCO 1.0"),
    "VOC": ("Annotations/a.xml", "<annotation><object>", "boxes in VOC's XML.*data.boxes=instances"),
    "Supervisely": ("ds0/ann/a.jpg.json", '{"objects": [{"classTitle": "car"}]}', "Supervisely's own annotations"),
    "JPEG": ("masks/a.jpg", "", "masks saved as JPEG, which changes labels at edges: export them as PNG"),
    "Darknet": ("obj.data", "classes = 1", "YOLO of Darknet.*Ultralytics YOLO segmentation"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_a_format_that_is_not_read_is_named_with_the_remedy(tmp_path, kind):
    name, text, message = UNREAD[kind]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"no known layout of a data set; .* looks like {message}"):
        recognise(tmp_path)
