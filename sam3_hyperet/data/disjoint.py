"""Whether splits have a picture in common: by its file, by its content, or by what a scene was drawn from."""

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path

from sam3_hyperet.data.annotations import AnnotatedImages, some
from sam3_hyperet.data.selection import copied_picture
from sam3_hyperet.digest import ends_digest, sha256
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.scenes.dataset import DrawnFrom
from sam3_hyperet.wording import count_of

Pairs = list[tuple[Path, Path]]
Pixels = Mapping[Path, Hashable]
"""A digest of what files show, by file."""


def shared(
    one: AnnotatedImages, other: AnnotatedImages, *, contents: bool, pixels: Pixels | None = None
) -> Iterator[tuple[str, Pairs]]:
    """Why pictures of two sets are the same, with the file of each in the first and in the second.

    They are if they are one file, or copies that Roboflow made of one picture; with `contents` also if two files have
    the same content, or if two scenes were drawn from the same state of the generator, at whatever size; with `pixels`
    also if they show the same, in whatever format.
    """
    first, second = ([images.files(i)[0] for i in range(len(images))] for images in (one, other))
    yield "the same file", _pairs(first, second, Path.resolve if contents else Path)
    yield "copies of the same picture", _pairs(first, second, copied_picture)
    if contents:
        yield "drawn from the same seed, split and number", _pairs(first, second, DrawnFrom())
        yield "of the same content", _of_same_content(first, second)
    if pixels:
        yield "of the same pixels", _pairs(first, second, pixels.get)


def shared_pictures(
    one: AnnotatedImages, other: AnnotatedImages, *, contents: bool = False, pixels: Pixels | None = None
) -> list[str]:
    """Names of the pictures of the second set that are in the first as well, as `shared` has it.

    Each is followed by its name in the first set, where that is another one.
    """
    names = dict[str, str]()
    for _, pairs in shared(one, other, contents=contents, pixels=pixels):
        for file, twin in pairs:
            name, there = copied_picture(twin) or twin.name, copied_picture(file) or file.name
            names.setdefault(copied_picture(twin) or str(twin), name if name == there else f"{name} (there {there})")
    return sorted(names.values())


def shared_remarks(
    splits: Mapping[str, AnnotatedImages], *, contents: bool = False, pixels: Pixels | None = None
) -> tuple[str, ...]:
    """Warnings of pictures that a split has of an earlier one: trained on, or tuned by, and scored."""
    remarks = []
    for (one, first), (other, second) in itertools.combinations(splits.items(), 2):
        if names := shared_pictures(first, second, contents=contents, pixels=pixels):
            count = count_of(len(names), "picture")
            found = f"warning: {other} has {count} of {one}; scores on them say nothing: {some(names)}"
            remarks.append(f"{found}; take them out of one of the splits")
    return tuple(remarks)


def check_unscored(option: str, tuning: AnnotatedImages, scored: AnnotatedImages, split: str) -> None:
    """Raise a ConfigError where images that an option chooses by are scored as well, in a split of that name."""
    if names := shared_pictures(tuning, scored):
        found = f"{len(names)} of its tuning images are scored in split={split}, the first {names[0]}"
        raise ConfigError(f"{option}: {found}; expected splits that share none")


def check_disjoint(splits: Mapping[str, AnnotatedImages]) -> None:
    """Raise a DataError that names pictures which two of the splits share, by their contents, too."""
    for (one, first), (other, second) in itertools.combinations(splits.items(), 2):
        for fault, pairs in shared(first, second, contents=True):
            if pairs:
                listed = some(f"{path} and {twin}" for path, twin in pairs)
                count = count_of(len(pairs), "picture")
                raise DataError(
                    f"{other} has {count} of {one}, {fault}: {listed}; expected splits without a picture in common"
                    " (of drawn scenes: another data.seed)"
                )


def _of_same_content(first: Sequence[Path], second: Sequence[Path]) -> Pairs:
    """Pairs of files with the same bytes; of files of one size the ends are read, and the whole of those that agree."""
    keys: dict[Path, Hashable] = {file: file.stat().st_size for file in dict.fromkeys([*first, *second])}
    for digest in (ends_digest, sha256):
        common = {keys[file] for file in first if file in keys} & {keys[file] for file in second if file in keys}
        keys = {file: (key, digest(file)) for file, key in keys.items() if key in common}
    return _pairs(first, second, keys.get)


def _pairs(first: Sequence[Path], second: Sequence[Path], key_of: Callable[[Path], Hashable | None]) -> Pairs:
    """A pair for each file of the second with a key that one of the first has; those without a key have none."""
    twins = {key: file for file in first if (key := key_of(file)) is not None}
    return [(twins[key], file) for file in second if (key := key_of(file)) is not None and key in twins]
