"""What the recognisers of layouts share: the layouts that they know, and what they found in a folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Found:
    """A layout found in a folder.

    layout: its name, as in "Roboflow, COCO format".
    options: values of `DataOptions` that describe the folder, `format` and `splits` among them.
    notes: sentences about what was guessed, left aside or is odd.
    """

    layout: str
    options: Mapping[str, object]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Layouts that are recognised together.

    trees: by the name of a layout, the files that it is recognised by, in one line.
    recognise: from a folder to the layouts found there: none, one, or several that exclude each other.
    """

    trees: Mapping[str, str]
    recognise: Callable[[Path], Sequence[Found]]
