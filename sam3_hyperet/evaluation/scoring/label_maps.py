"""Label maps and class names as files: which value in a PNG means which class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.semantic.semantic_miou import UNASSIGNED, SemanticMIoU

_IGNORE_MARK = "(ignore)"
_MODES = ("1", "L", "P", "I", "I;16", "I;16B")  # of Pillow


@dataclass(frozen=True)
class LabelEncoding:
    """names: of the C classes. Class c has the value c + offset in a file; `ignore` is the value of none."""

    names: tuple[str, ...]
    offset: int
    ignore: int

    def __post_init__(self) -> None:
        if self.offset <= self.ignore < self.offset + len(self.names):
            raise ConfigError(f"ignore={self.ignore} is the value of class {self.names[self.ignore - self.offset]!r}")

    def decode(self, values: np.ndarray, source: str) -> np.ndarray:
        """File values (H, W) → classes 0…C-1, `UNASSIGNED` for `ignore`; any other value is a DataError."""
        classes = values.astype(np.int64) - self.offset
        wrong = (values != self.ignore) & ((classes < 0) | (classes >= len(self.names)))
        if wrong.any():
            valid = f"{self.offset} to {self.offset + len(self.names) - 1}, or {self.ignore} for none"
            raise DataError(f"{source}: has the value {values[wrong][0]}, expected {valid}")
        return np.where(values == self.ignore, UNASSIGNED, classes)


def read_names(path: str | Path, offset: int | None = None, ignore: int | None = None) -> LabelEncoding:
    """The classes of a names file, with the values it implies where `offset` and `ignore` are None.

    - ADE20K's `objectInfo150.txt` (tab separated, columns Idx and Name, synonyms after commas): offset = the
      first Idx, 1, and ignore = 0; a class is named by its first synonym, or by all where two classes share
      the first.
    - One name a line: offset = 0; ignore = the value of the last line where that ends in "(ignore)" (CamVid:
      11), else 255.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file: {error}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path}: no class names")
    header = lines[0].split("\t")
    if {"Idx", "Name"} <= set(header):
        names, first = _table(path, lines[1:], header.index("Idx"), header.index("Name"))
        offset = first if offset is None else offset
        ignore = 0 if ignore is None else ignore
    else:
        offset = offset or 0
        marked = [n for n, line in enumerate(lines) if line.endswith(_IGNORE_MARK)]
        if marked and marked != [len(lines) - 1]:
            raise DataError(f"{path}: line {marked[0] + 1} is marked {_IGNORE_MARK}; only the last line may be")
        names = lines[: len(lines) - len(marked)]
        ignore = ignore if ignore is not None else offset + len(names) if marked else 255
    if not names or len(set(names)) != len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        raise DataError(f"{path}: {f'the name {twice!r} occurs twice' if twice else 'no class names'}")
    return LabelEncoding(tuple(names), offset, ignore)


def read_label_map(path: str | Path) -> np.ndarray:
    """The values (H, W) of a single-channel PNG: grey of 1 to 16 bits, or a palette, whose indices count.

    Raises DataError naming the file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode, values = image.mode, np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataError(f"{path}: cannot be read as a picture: {error}") from error
    if mode in _MODES:
        return values.astype(np.int64)
    raise DataError(f"{path}: a {mode} picture, expected a label map of a single channel")


def score_label_folders(
    labels: str | Path,
    predictions: str | Path,
    encoding: LabelEncoding,
    on_image: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Score every label PNG under one folder against the prediction of the same relative path under another.

    The metrics of `SemanticMIoU` and `predictions_without_label`, a count; a label without prediction is a
    DataError. `on_image` is called after each, for a progress bar.
    """
    label_files, prediction_files = _png_files(labels), _png_files(predictions)
    if missing := sorted(label_files.keys() - prediction_files.keys()):
        raise DataError(
            f"{predictions}: {len(missing)} of {len(label_files)} predictions are missing, e.g. {missing[0]}"
        )
    evaluator = SemanticMIoU(encoding.names, ignore=UNASSIGNED)
    for name, path in sorted(label_files.items()):
        label = encoding.decode(read_label_map(path), str(path))
        other = prediction_files[name]
        prediction = encoding.decode(read_label_map(other), str(other))
        evaluator.process(label, prediction, source=str(other))
        on_image()
    return evaluator.evaluate() | {"predictions_without_label": len(prediction_files.keys() - label_files.keys())}


def _png_files(folder: str | Path) -> dict[str, Path]:
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such folder")
    files = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*.png")}
    if not files:
        raise DataError(f"{folder}: no .png files")
    return files


def _table(path: str | Path, lines: list[str], index_column: int, name_column: int) -> tuple[list[str], int]:
    rows = [line.split("\t") for line in lines]
    try:
        indices = [int(row[index_column]) for row in rows]
        synonyms = [row[name_column].strip() for row in rows]
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: a row without Idx and Name: {error}") from error
    if not indices or indices != list(range(indices[0], indices[0] + len(indices))):
        raise DataError(f"{path}: the column Idx does not count up one by one")
    short = [entry.split(",")[0].strip() for entry in synonyms]
    return [s if short.count(s) == 1 else full for s, full in zip(short, synonyms, strict=True)], indices[0]
