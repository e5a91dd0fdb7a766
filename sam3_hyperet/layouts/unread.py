"""Formats that are not read, and what to export in their place."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sam3_hyperet.data.finding import is_hidden

_START = 4096  # bytes of a file
_LOOKED_AT = 5  # files of a folder
_COCO = "export as COCO"
_CVAT_COCO = f"{_COCO} 1.0, with images"
_LOSSY = "masks saved as JPEG, which changes labels at edges"
_KNOWN = (  # files below the folder, what is in them, what they are, and what to do
    ("*.json", (b'"shapes"', b'"points"'), "labelme's own files", "convert them to COCO, by labelme2coco for one"),
    ("*/*.json", (b'"shapes"', b'"points"'), "labelme's own files", "convert them to COCO, by labelme2coco for one"),
    ("*.json", (b"_via_",), "VIA's project", _COCO),
    ("*.json", (b'"regions"', b'"filename"'), "VIA's own annotations", _COCO),
    ("*.json", (b'"annotations"', b'"result"'), "Label Studio's own annotations", f"{_COCO}, with images"),
    ("annotations/*.json", (b'"categories"', b'"label_groups"'), "Datumaro's own annotations", _CVAT_COCO),
    ("annotations/*.json", (b'"categories"', b'"labels"'), "Datumaro's own annotations", _CVAT_COCO),
    ("annotations.xml", (b"<annotations>",), "CVAT for images", _CVAT_COCO),
    (
        "*/*.xml",
        (b"<annotation>",),
        "boxes in VOC's XML, without masks",
        "convert them to COCO, with data.boxes=instances",
    ),
    ("*/ann/*.json", (b'"objects"', b'"classTitle"'), "Supervisely's own annotations", _COCO),
    *((f"{folder}/*.jp*g", (), _LOSSY, "export them as PNG") for folder in ("mask*", "SegmentationClass", "*annot")),
    ("obj.data", (), "YOLO of Darknet, which has boxes alone", "export as Ultralytics YOLO segmentation"),
)


def unread_format(root: Path) -> str:
    """What a folder has in a format that is known and not read, with what to do; "" if there is no such thing."""
    for pattern, words, what, remedy in _KNOWN:
        for file in islice(_files(root, pattern), _LOOKED_AT):
            if all(word in _start(file) for word in words):
                return f"{file.relative_to(root)} looks like {what}: {remedy}"
    return ""


def _files(root: Path, pattern: str) -> Iterator[Path]:
    return (path for path in sorted(islice(root.glob(pattern), 1000)) if path.is_file() and not is_hidden(path.name))


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_START)
    except OSError:
        return b""
