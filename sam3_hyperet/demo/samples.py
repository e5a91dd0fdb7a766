"""Pictures to begin with: drawn scenes, or the images of a folder."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sam3_hyperet.data.image_files import read_image
from sam3_hyperet.demo.models import Picture
from sam3_hyperet.errors import DataError
from sam3_hyperet.scenes.dataset import scene

MOST = 24
"""Samples that the page offers."""
_SCENES, _SEED, _SIDE = range(2, 18), 2, 384
_THUMBNAIL = 192  # pixels of the longer side


class Samples:
    """Pictures by position: the first `MOST` of `files`, or drawn scenes where there are none.

    Raises DataError naming a file that cannot be read.
    """

    def __init__(self, files: Sequence[Path] = ()) -> None:
        self._files = tuple(files[:MOST])
        self.thumbnails: list[tuple[Image.Image, str]] = []  # a small image of each, and its name
        for position in range(len(self)):
            picture = self[position]
            picture.image.thumbnail((_THUMBNAIL, _THUMBNAIL))
            self.thumbnails.append((picture.image, picture.name))

    def __len__(self) -> int:
        return len(self._files) or len(_SCENES)

    def __getitem__(self, position: int) -> Picture:
        if self._files:
            return read_picture(self._files[position])
        number = _SCENES[position]
        return Picture(f"scene {number}", Image.fromarray(scene(_SEED, "val", number, _SIDE)[0]))


def read_picture(path: Path) -> Picture:
    """The picture in a file, upright. Raises DataError."""
    return Picture(path.name, read_image(path, upright=True))


def read_upload(path: Path) -> Picture:
    """`read_picture` of a file that was uploaded, whose folder here means nothing to the person who did."""
    try:
        return read_picture(path)
    except DataError as error:
        raise DataError(str(error).replace(f"{path.parent}/", "")) from error
