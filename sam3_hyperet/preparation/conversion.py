"""Label maps rewritten with other values, into a folder of their own that is there whole or not at all."""

import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sam3_hyperet.data.finding import find_by_stem
from sam3_hyperet.data.label_maps import read_label_values
from sam3_hyperet.errors import ConfigError


@dataclass(frozen=True)
class Conversion:
    """What to make of label maps with other labels than are scored; folders are below the data set's root."""

    folder: str  # of the label maps as they come
    ending: str  # of their file names
    to: str  # folder of the label maps to make
    to_ending: str  # of their file names; what has it in `folder` needs no conversion
    values: Mapping[int, int]  # label as it comes -> label to write
    other: int  # what all other labels become
    option: str  # the key of the command line that names the folder of label maps

    def __post_init__(self) -> None:
        written = (*self.values.values(), self.other)
        if any(type(value) is not int or not 0 <= value <= 255 for value in written):
            raise ConfigError(f"conversion to {self.to}: its values are {written}, expected labels from 0 to 255")

    def needed(self, root: Path) -> bool:
        """Whether the label maps that are scored are nowhere, and those to make them of are there."""
        return not (root / self.to).exists() and not self.is_there(root) and _any(root / self.folder, self.ending)

    def is_there(self, root: Path) -> bool:
        """Whether `folder` itself has label maps that need no conversion."""
        return _any(root / self.folder, self.to_ending)

    def run(self, root: Path, workers: int, on_map: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Convert every label map, and return how many. Raises DataError for one that cannot be read."""
        target, found = root / self.to, find_by_stem(root / self.folder, (self.ending,))
        table = np.full(65_536, self.other, np.uint8)
        table[list(self.values)] = list(self.values.values())
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")

        def convert(stem: str) -> None:
            file = partial / f"{stem}{self.to_ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(table[read_label_values(found[stem])]).save(file)

        try:
            with ThreadPoolExecutor(workers) as pool:
                for done, _ in enumerate(pool.map(convert, found), start=1):
                    on_map(done, len(found))
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return len(found)


def _any(folder: Path, ending: str) -> bool:
    return next(folder.rglob(f"*{ending}"), None) is not None
