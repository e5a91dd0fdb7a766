"""Every file of a data set opened once: what is there, what was expected, and what cannot be used."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from sam3_hyperet.data.annotations import AnnotatedImages, some
from sam3_hyperet.data.coco import CocoInstances
from sam3_hyperet.data.label_maps import IGNORED
from sam3_hyperet.data.label_values import MAX_VALUE
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.errors import DataError
from sam3_hyperet.wording import count_of

_END = 1 << 16  # bytes at both ends of a file
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
    """A split's notes, its checks, and its manifest: counts, bytes, and the SHA-256 of the sorted list of its files."""

    notes: tuple[str, ...]
    checks: tuple[Check, ...]
    manifest: Mapping[str, int | float | str]

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
    labelled, pixels = 0, 0
    with ThreadPoolExecutor(workers) as pool:
        opened = pool.map(lambda i: _open(images, i), range(len(images)))
        for done, (found, labelled_here, pixels_here) in enumerate(opened, start=1):
            faults += found
            labelled, pixels = labelled + labelled_here, pixels + pixels_here
            on_image(done, len(images))
    checks.append(Check("unusable files", f"{len(faults):,}", "0", not faults, tuple(faults[:_SHOWN])))
    if pixels:
        checks.append(Check("labelled pixels", f"{labelled / pixels:.1%}", "more than 0", labelled > 0))
    files = [path for i in range(len(images)) for path in images.files(i) if path.is_file()]  # not a broken link
    listing = {Path(os.path.relpath(path, root)).as_posix(): path.stat().st_size for path in files}
    text = "".join(f"{name}\t{size}\n" for name, size in sorted(listing.items()))
    shares = {"labelled": labelled / pixels} if pixels else {}
    digest = hashlib.sha256(text.encode()).hexdigest()
    manifest: dict[str, int | float | str] = {**counts, **shares, "bytes": sum(listing.values()), "sha256": digest}
    return Inspected(tuple(data_notes(images, MAX_VALUE)), tuple(checks), manifest)


def same_files(splits: Mapping[str, AnnotatedImages]) -> list[str]:
    """Warnings of files that two splits have under different names: the same size, first and last bytes."""
    warnings = []
    sizes = {name: _sizes(images) for name, images in splits.items()}
    for one, other in combinations(splits, 2):
        common = sizes[one].keys() & sizes[other].keys()
        first, second = ({_ends(file): file for n in common for file in sizes[name][n]} for name in (one, other))
        pairs = [(first[key], second[key]) for key in first if key in second and first[key] != second[key]]
        if pairs:
            listed = some(f"{file.name} and {copy.name}" for file, copy in pairs)
            warnings.append(f"warning: {other} has {count_of(len(pairs), 'file')} of {one}: {listed}")
    return warnings


def _sizes(images: AnnotatedImages) -> dict[int, list[Path]]:
    """Image files by their size in bytes."""
    found = defaultdict[int, list[Path]](list)
    for i in range(len(images)):
        path = images.image(i).path
        found[path.stat().st_size].append(path)
    return found


def _ends(path: Path) -> bytes:
    """A hash of the first and the last bytes of a file."""
    with path.open("rb") as file:
        start = file.read(_END)
        file.seek(max(0, path.stat().st_size - _END))
        return hashlib.blake2b(start + file.read(_END), digest_size=16).digest()


def _open(images: AnnotatedImages, i: int) -> tuple[list[str], int, int]:
    """What is wrong with image i; how many pixels of its label map have a class, and of how many."""
    try:
        images.load_image(i)
        labels = images.label_map(i)
    except DataError as error:
        return [str(error)], 0, 0
    return ([], 0, 0) if labels is None else ([], int((labels != IGNORED).sum()), labels.size)
