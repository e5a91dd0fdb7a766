"""Every file of a data set opened once: what is there, what was expected, and what cannot be used."""

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sam3_hyperet.data.annotations import AnnotatedImages
from sam3_hyperet.data.coco import CocoInstances
from sam3_hyperet.data.label_maps import IGNORED
from sam3_hyperet.data.label_values import MAX_VALUE
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.errors import DataError

_ROWS = 256  # of an image
_SHOWN = 10  # sentences of a failed check


@dataclass(frozen=True)
class Check:
    """A line of the result: `expected` is empty where anything will do, `details` are sentences."""

    what: str
    found: str
    expected: str = ""
    passed: bool = True
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspected:
    """A split's notes, its checks, and its manifest: counts, bytes, and the SHA-256 of the sorted list of its files.

    pixels: a digest of what each image file shows.
    """

    notes: tuple[str, ...]
    checks: tuple[Check, ...]
    manifest: Mapping[str, int | float | str]
    pixels: Mapping[Path, bytes] = field(default_factory=dict)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


def inspect(
    read: Callable[[], AnnotatedImages],
    root: Path,
    expected: Mapping[str, int],
    workers: int = 4,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> Inspected:
    """Open a split by `read`, whose DataError is a failed check, and decode each of its images and label maps.

    expected: how many `pictures`, `annotations` or `categories` there are to be, where that is known.
    on_image: called with how many are done, and of how many.
    """
    try:
        images = read()
    except DataError as error:
        return Inspected((), (Check("readable", "no", "yes", False, (str(error),)),), {})
    counts = {"pictures": len(images), "categories": len(images.categories)}
    if isinstance(images, CocoInstances):
        counts["annotations"] = images.annotation_count
    checks = [
        Check(name, f"{count:,}", f"{expected[name]:,}" if name in expected else "", expected.get(name, count) == count)
        for name, count in counts.items()
    ]
    faults: list[str] = []
    labelled, pixels, digests = 0, 0, dict[Path, bytes]()
    with ThreadPoolExecutor(workers) as pool:
        opened = pool.map(lambda i: _open(images, i), range(len(images)))
        for i, (found, labelled_here, pixels_here, digest) in enumerate(opened):
            faults += found
            labelled, pixels = labelled + labelled_here, pixels + pixels_here
            digests |= {images.files(i)[0]: digest} if digest else {}
            on_image(i + 1, len(images))
    checks.append(Check("unusable files", f"{len(faults):,}", "0", not faults, tuple(faults[:_SHOWN])))
    if pixels:
        checks.append(Check("labelled pixels", f"{labelled / pixels:.1%}", "more than 0", labelled > 0))
    files = [path for i in range(len(images)) for path in images.files(i) if path.is_file()]  # not a broken link
    listing = {Path(os.path.relpath(path, root)).as_posix(): path.stat().st_size for path in files}
    text = "".join(f"{name}\t{size}\n" for name, size in sorted(listing.items()))
    shares = {"labelled": labelled / pixels} if pixels else {}
    checksum = hashlib.sha256(text.encode()).hexdigest()
    manifest: dict[str, int | float | str] = {**counts, **shares, "bytes": sum(listing.values()), "sha256": checksum}
    return Inspected(tuple(data_notes(images, MAX_VALUE)), tuple(checks), manifest, digests)


def _open(images: AnnotatedImages, i: int) -> tuple[list[str], int, int, bytes]:
    """What is wrong with image i; how many pixels of its label map have a class, and of how many; what it shows."""
    try:
        image = images.load_image(i)
        labels = images.label_map(i)
    except DataError as error:
        return [str(error)], 0, 0, b""
    counts = (0, 0) if labels is None else (int((labels != IGNORED).sum()), labels.size)
    return [], *counts, _digest(image)


def _digest(image: Image.Image) -> bytes:
    digest = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    for top in range(0, image.height, _ROWS):  # a copy of a large image would not be small
        digest.update(image.crop((0, top, image.width, min(top + _ROWS, image.height))).tobytes())
    return digest.digest()
