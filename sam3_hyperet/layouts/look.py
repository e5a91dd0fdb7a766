"""What a JSON file is, told by looking for keys in its bytes: a file of 450 MB takes a moment, parsing it many."""

import json
import mmap
import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from sam3_hyperet.reading import foreign_content

_SAMPLE = 5  # file names of images
_END = 1 << 16  # bytes at both ends of a file, where most keys are
_LISTS = (rb'"images"\s*:\s*\[', rb'"annotations"\s*:\s*\[', rb'"categories"\s*:\s*\[')
_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')
_URL = re.compile(rb'"coco_url"\s*:\s*("(?:[^"\\]|\\.)*")')
_PAIR = re.compile(rb'"text_input"\s*:\s*"')
_MASK = re.compile(rb'"segmentation"\s*:\s*(?:\{|\[\s*[^\s\]])')
_NO_ANNOTATION = re.compile(rb'"annotations"\s*:\s*\[\s*\]')


@dataclass(frozen=True)
class CocoLook:
    """A COCO file: names of a few of its images (the ends of LVIS's URLs), and whether it has annotations and so on."""

    names: tuple[str, ...]
    is_annotated: bool
    has_pairs: bool  # of an image and a phrase, as SA-Co has them
    has_urls: bool
    has_masks: bool


def look_at(path: Path) -> CocoLook | None:
    """What a COCO file is; None for any other file, and for one that cannot be read."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if not content[:_END].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
                return None
            if not all(_has(content, key) for key in _LISTS):
                return None
            names = [_text(match[1]) for match in islice(_NAME.finditer(content), _SAMPLE)]
            urls = [] if names else [_text(match[1]) for match in islice(_URL.finditer(content), _SAMPLE)]
            ends = ["/".join(unquote(url).split("/")[-2:]) for url in urls]
            return CocoLook(
                tuple(names or ends),
                is_annotated=_NO_ANNOTATION.search(content) is None,
                has_pairs=_PAIR.search(content, 0, 1 << 24) is not None,
                has_urls=bool(urls),
                has_masks=_MASK.search(content) is not None,
            )
    except (OSError, ValueError):  # an empty file cannot be mapped
        return None


def damage(path: Path) -> str:
    """Why a JSON file cannot be whole, as far as its two ends tell; "" for others."""
    if found := foreign_content(path):
        return found
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _END))
        return "" if file.read().rstrip(b" \t\r\n\0").endswith((b"}", b"]")) else "it breaks off"


def _has(content: mmap.mmap, pattern: bytes) -> bool:
    """Whether a pattern is in a file: sought at its ends first."""
    return any(re.search(pattern, part) for part in (content[:_END], content[-_END:], content))


def _text(token: bytes) -> str:
    try:
        return str(json.loads(token))
    except ValueError:
        return token[1:-1].decode("utf-8", "replace")
