"""Coloured label maps: tables of colours as annotation tools write them, and images read by them."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sam3_hyperet.data.annotations import shown, some
from sam3_hyperet.data.class_names import text_lines
from sam3_hyperet.data.image_files import open_label_image
from sam3_hyperet.data.label_values import is_background
from sam3_hyperet.errors import DataError
from sam3_hyperet.reading import read_json

BLACK = (0, 0, 0)
VOC_BORDER = (224, 224, 192)  # what VOC draws around objects: no class
NO_CLASS = 65_535  # the label of the border
_MANY = 16  # unknown colours, from which an image must be compressed or smoothed
_ROWS = 128  # of an image, that are read at once
_HEX = re.compile(r"#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})(?:[0-9a-f]{2})?", re.IGNORECASE)
_CAMVID = re.compile(r"(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)")
Color = tuple[int, int, int]


@dataclass(frozen=True)
class ColorTable:
    """Class names in the order of the table, and the position of each colour's name among them; where it is from.

    remarks: sentences about what the table does not say.
    """

    names: tuple[str, ...]
    colors: Mapping[Color, int]
    source: str
    remarks: tuple[str, ...] = ()
    _sorted: np.ndarray = field(init=False, repr=False, compare=False)
    _labels: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        colors = {VOC_BORDER: NO_CLASS} | dict(self.colors)
        labels = {red << 16 | green << 8 | blue: label for (red, green, blue), label in colors.items()}
        object.__setattr__(self, "_sorted", np.asarray(sorted(labels), np.uint32))
        object.__setattr__(self, "_labels", np.asarray([labels[one] for one in sorted(labels)], np.int64))

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint16, the position of each pixel's class in `names`; `NO_CLASS` on VOC's border.

        A grey image's values count as three equal ones, a palette's are its colours. Raises DataError naming the file
        and the first colour that the table does not have.
        """
        packed = packed_colors(path)
        labels = np.empty(packed.shape, np.uint16)
        for first in range(0, len(packed), _ROWS):  # places of a whole image would take most of the memory
            rows = packed[first : first + _ROWS]
            at = np.searchsorted(self._sorted, rows).clip(max=len(self._sorted) - 1)
            if (self._sorted[at] != rows).any():
                raise self._strange(path, packed)
            labels[first : first + _ROWS] = self._labels[at]
        return labels

    def _strange(self, path: Path, packed: np.ndarray) -> DataError:
        strange = packed[~np.isin(packed, self._sorted)]
        different = len(np.unique(strange))
        first = [int(strange[0]) >> shift & 255 for shift in (16, 8, 0)]
        why = (
            "; so many come from JPEG, smoothing or resizing: export masks as PNG without" if different > _MANY else ""
        )
        return DataError(
            f"{path}: {len(strange) / packed.size:.2%} of its pixels have {different} colours that are not in "
            f"{self.source}, the first [{some(first)}]{why}"
        )

    @property
    def shown(self) -> dict[int, str]:
        """The colours of each position, as messages show them."""
        found: dict[int, str] = {}
        for color, label in self.colors.items():
            found[label] = f"{found[label]} or {_text(color)}" if label in found else _text(color)
        return found


def read_colors(colors: Mapping[str, object] | Path) -> ColorTable:
    """A table from a mapping, name to [red, green, blue] or a grey value, or from a file.

    Files: CVAT's and VOC's `labelmap.txt` (name:red,green,blue:parts:actions), CamVid's `label_colors.txt` (red green
    blue name), `class_dict.csv` with the columns name, r, g, b, and JSON, as Supervisely's. A name may have several
    colours. Black is the background where no class has it. Raises DataError.
    """
    if isinstance(colors, Mapping):
        pairs = [(str(name), color) for name, color in colors.items()]
        source = "data.colors"
    else:
        pairs, source = _of_file(colors), str(colors)
    names = list(dict.fromkeys(name for name, _ in pairs))
    found: dict[Color, int] = {}
    for name, color in pairs:
        if (key := _color(color)) is None:
            raise DataError(
                f"{source}: the colour of {name!r} is {shown(color)}, expected [red, green, blue], 0 to 255, or #rrggbb"
            )
        if found.setdefault(key, names.index(name)) != names.index(name):
            raise DataError(f"{source}: {names[found[key]]!r} and {name!r} have the same colour {_text(key)}")
    if not names:
        raise DataError(f"{source}: it lists no colour")
    if BLACK in found or any(map(is_background, names)):
        return ColorTable(tuple(names), found, source)
    remark = f"{source} lists no background, so black is read as it"
    return ColorTable(
        ("background", *names), {BLACK: 0} | {one: at + 1 for one, at in found.items()}, source, (remark,)
    )


def _color(given: object) -> Color | None:
    """A colour as a user writes it; None for what is none."""
    values = [given] * 3 if type(given) is int else given
    if isinstance(given, str) and (hexadecimal := _HEX.fullmatch(given)):
        values = [int(part, 16) for part in hexadecimal.groups()]
    if not isinstance(values, list | tuple) or len(values) != 3:
        return None
    red, green, blue = values
    return (red, green, blue) if all(type(v) is int and 0 <= v <= 255 for v in values) else None


def _of_file(path: Path) -> list[tuple[str, object]]:
    if path.suffix.lower() == ".json":
        content = read_json(path)
        if not isinstance(content, dict):
            raise DataError(f"{path}: found {shown(content)}, expected colours by class name")
        return list(content.items())
    lines = [line.strip() for line in text_lines(path)]
    lines = [line for line in lines if line and not line.startswith("#")]
    if lines and {"name", "r", "g", "b"} <= set(header := [cell.strip().lower() for cell in lines[0].split(",")]):
        columns = [header.index(key) for key in ("name", "r", "g", "b")]
        rows = [row for row in csv.reader(lines[1:]) if len(row) == len(header)]
        if len(rows) < len(lines) - 1:
            raise DataError(f"{path}: a row has not {len(header)} columns, as the first line has")
        return [(row[columns[0]].strip(), _numbers([row[at] for at in columns[1:]])) for row in rows]
    found: list[tuple[str, object]] = []
    for number, line in enumerate(lines, start=1):
        if match := _CAMVID.fullmatch(line):
            found.append((match[4].strip(), _numbers(match.groups()[:3])))
        elif len(parts := line.rsplit(":", 3)) == 4:
            found.append((parts[0].strip(), _numbers(parts[1].split(","))))
        else:
            raise DataError(
                f"{path}: its line {number} without a comment is {shown(line)}, expected name:red,green,blue:: or "
                "red green blue name, or first the columns name,r,g,b"
            )
    return found


def _numbers(cells: list[str] | tuple[str, ...]) -> list[object]:
    return [int(cell) if cell.strip().isdecimal() else cell for cell in cells]


def packed_colors(path: Path) -> np.ndarray:
    """(H, W) uint32 of an image's colours, red << 16 | green << 8 | blue. Raises DataError naming the file."""
    with open_label_image(path) as image:
        if image.mode.startswith(("I", "F")):
            raise DataError(f"{path}: found {image.mode} pixels, expected colours of 8 bits a channel")
        has_alpha = image.mode == "P" and "transparency" in image.info
        colors = image.convert("RGBA") if has_alpha else image
        pixels = np.asarray(colors if colors.mode == "RGB" else colors.convert("RGB"))
    packed = pixels[..., 0].astype(np.uint32)
    for channel in (1, 2):  # in place: an image of a drone has 48 million pixels
        packed <<= 8
        packed |= pixels[..., channel]
    return packed


def _text(color: Color) -> str:
    return f"[{', '.join(map(str, color))}]"
