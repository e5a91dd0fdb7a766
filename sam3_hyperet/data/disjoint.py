"""Whether splits have a picture in common: by its file, by its content, or by what a scene was drawn from."""

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

from sam3_hyperet.data.annotations import AnnotatedImages, some
from sam3_hyperet.data.selection import copied_picture
from sam3_hyperet.digest import sha256
from sam3_hyperet.errors import DataError
from sam3_hyperet.scenes.dataset import DrawnFrom
from sam3_hyperet.wording import count_of


def check_disjoint(splits: Mapping[str, AnnotatedImages]) -> None:
    """Raise a DataError that names pictures which two of the splits share.

    A picture is shared if it is one file, if two files have the same content or are copies that Roboflow made of one
    picture, or if two scenes were drawn from the same state of the generator, at whatever size. Content is read of
    files whose size occurs in both splits.
    """
    files = {name: [images.files(i)[0] for i in range(len(images))] for name, images in splits.items()}
    drawn_from = DrawnFrom()
    for (one, first), (other, second) in itertools.combinations(files.items(), 2):
        sizes = {file.stat().st_size for file in first} & {file.stat().st_size for file in second}
        alike = [[file for file in several if file.stat().st_size in sizes] for several in (first, second)]
        for fault, pairs in (
            ("the same file", _pairs(first, second, Path.resolve)),
            ("drawn from the same seed, split and number", _pairs(first, second, drawn_from)),
            ("copies of the same picture", _pairs(first, second, copied_picture)),
            ("of the same content", _pairs(alike[0], alike[1], sha256)),
        ):
            if pairs:
                listed = some(f"{path} and {twin}" for path, twin in pairs)
                shared = count_of(len(pairs), "picture")
                raise DataError(
                    f"{other} has {shared} of {one}, {fault}: {listed}; expected splits without a picture in common "
                    " (of drawn scenes: another data.seed)"
                )


def _pairs(
    first: Sequence[Path], second: Sequence[Path], key_of: Callable[[Path], Hashable | None]
) -> list[tuple[Path, Path]]:
    """Files of the two that have a key in common; those without a key have none."""
    twins = {key: file for file in second if (key := key_of(file)) is not None}
    return [(file, twins[key]) for file in first if (key := key_of(file)) is not None and key in twins]
