"""mIoU of label maps as files: which value in a file means which class."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sam3_hyperet.data.ade20k import is_object_info, read_object_info
from sam3_hyperet.data.annotations import spoken
from sam3_hyperet.data.class_names import read_class_names, text_lines
from sam3_hyperet.data.finding import IMAGE_ENDINGS, LABEL_ENDINGS, below, find_by_stem, find_files
from sam3_hyperet.data.label_maps import read_label_values
from sam3_hyperet.data.label_values import IGNORE_MARK, LabelValues, check_readings, count_values, implied_offset
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.metrics.semantic.semantic_miou import UNASSIGNED, SemanticMIoU
from sam3_hyperet.wording import count_of


@dataclass(frozen=True)
class LabelEncoding:
    """names: of the C classes. Class c has the value c + offset in a file; `ignore` is the value of none."""

    names: tuple[str, ...]
    offset: int
    ignore: int
    is_stated: bool = True  # the offset is no mere default

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

    - ADE20K's `objectInfo150.txt` (tab separated, columns Idx and Name, synonyms after commas): offset = 1 and
      ignore = 0; a class is named by its first synonym, or by all where two classes share the first.
    - One name a line: offset = 0; ignore = the value of the last line where that ends in "(ignore)" (CamVid:
      11), else 255.

    Where `ignore` is 0 and the first name is a class, offset = 1. Underscores are read as spaces. Raises DataError.
    """
    is_stated = offset is not None
    lines = [line.strip() for line in text_lines(Path(path)) if line.strip()]
    if not lines:
        raise DataError(f"{path}: no class names")
    if is_object_info(lines[0]):
        table = read_object_info(path)
        first = [name for name, _ in table]
        names = [name if first.count(name) == 1 else ", ".join((name, *synonyms)) for name, synonyms in table]
        offset, ignore = (1 if offset is None else offset), (0 if ignore is None else ignore)
        is_stated = True
    else:
        named, numbered_from, _ = read_class_names(Path(path))
        lines = [line.strip() for line in named if line.strip()]
        is_stated = is_stated or numbered_from is not None
        offset = numbered_from if offset is None else offset
        marked = [n for n, line in enumerate(lines) if line.endswith(IGNORE_MARK)]
        if marked and marked != [len(lines) - 1]:
            raise DataError(f"{path}: line {marked[0] + 1} is marked {IGNORE_MARK}; only the last line may be")
        names = [spoken(line) for line in lines[: len(lines) - len(marked)]]
        implied = 0 if marked else implied_offset(names, () if ignore is None else (ignore,))
        is_stated = is_stated or implied is not None
        offset = (implied or 0) if offset is None else offset
        ignore = ignore if ignore is not None else offset + len(names) if marked else 255
    if not names or len(set(names)) != len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        raise DataError(f"{path}: {f'the name {twice!r} occurs twice' if twice else 'no class names'}")
    return LabelEncoding(tuple(names), offset, ignore, is_stated)


def score_label_folders(
    labels: str | Path,
    predictions: str | Path,
    encoding: LabelEncoding,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Score every label map under one folder against the prediction of the same relative path under another.

    Endings may differ (`.png`, `.PNG`, `.tif`); hidden files are no label maps, and linked folders are followed.
    `say` is called with each class's value and fraction of the pixels, and with what is odd about them.
    Returns the metrics of `SemanticMIoU` and `predictions_without_label`, a count. Raises DataError for a label map
    without prediction, a file of another format in the folder of labels, which would silently not be scored, and for
    values that fit the names from 0 and from 1, where no offset is stated.
    """
    folder = Path(labels)
    label_files, prediction_files = (find_by_stem(Path(where), LABEL_ENDINGS) for where in (labels, predictions))
    if unscored := sorted(set(find_files(folder, IMAGE_ENDINGS).values()) - set(label_files.values())):
        found = f"no label maps: {count_of(len(unscored), 'file')}, such as {unscored[0].name}"
        raise DataError(f"{folder}: {found}; expected files in {', '.join(LABEL_ENDINGS)} alone")
    if missing := sorted(label_files.keys() - prediction_files.keys()):
        first = below(folder, label_files[missing[0]])
        raise DataError(f"{predictions}: {len(missing)} of {len(label_files)} predictions are missing, e.g. {first}")
    counts, offset = count_values(list(label_files.values()), read_label_values), encoding.offset
    stated = offset if encoding.is_stated else None
    taken = check_readings(counts, encoding.names, stated, (encoding.ignore,), folder, "")
    names = {offset + number: name for number, name in enumerate(encoding.names)}
    for line in (*taken, *LabelValues(names, (encoding.ignore,), counts).lines(len(names))):
        say(f"{folder}: {line}")
    evaluator = SemanticMIoU(encoding.names, ignore=UNASSIGNED)
    for name, path in sorted(label_files.items()):
        other = prediction_files[name]
        label, prediction = (encoding.decode(read_label_values(file), str(file)) for file in (path, other))
        evaluator.process(label, prediction, source=str(other))
    return evaluator.evaluate() | {"predictions_without_label": len(prediction_files.keys() - label_files.keys())}
