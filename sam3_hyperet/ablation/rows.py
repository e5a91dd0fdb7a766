"""The CSV of a study: a row a finished run, sorted, so that a diff shows what is new."""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sam3_hyperet.errors import DataError
from sam3_hyperet.files import replacing, write_json
from sam3_hyperet.reading import parse_json, read_text

ALL_IMAGES = "all"
"""`images` of a run that trains on all of them."""
Row = Mapping[str, str]
"""Cells by column, as text; a metric that a run does not have is empty or absent."""


@dataclass(frozen=True)
class Layout:
    """Columns of a file: those that name a row, the others before the metrics, and those behind them."""

    key: tuple[str, ...]
    setup: tuple[str, ...]
    cost: tuple[str, ...]

    def metrics(self, rows: Iterable[Row]) -> list[str]:
        """The columns that are a plan's metrics, in their order."""
        fixed = {*self.key, *self.setup, *self.cost}
        return [name for name in dict.fromkeys(name for row in rows for name in row) if name not in fixed]

    def part_of(self, row: Row, metrics: Iterable[str]) -> dict[str, str]:
        """The cells of the layout's own columns and of these metrics."""
        wanted = {*self.key, *self.setup, *metrics, *self.cost}
        return {name: value for name, value in row.items() if name in wanted}

    def key_of(self, row: Row) -> tuple[str, ...]:
        """What names a row: no two of a file have it alike."""
        return tuple(row[name] for name in self.key)


RUNS = Layout(
    ("plan", "data", "base", "arm", "seed", "images"),
    ("adapter", "sites", "geometry", "structure", "gate", "tuned", "parameters", "steps", "best_step", "dial"),
    ("train_seconds", "seconds", "peak_gib", "version", "date", "weights", "identity"),
)
"""The file of runs. Of a metric `m`, `m` is at the chosen dial, `m@1` undialled, `m@base` the base's."""
TRIALS = Layout(
    ("plan", "data", "base", "arm", "seed", "images", "tuned"),
    ("steps", "best_step", "dial"),
    ("seconds", "version", "date", "weights", "identity"),
)
"""The file of trials, by which arms are tuned; its metrics are those of the tuning images."""


def trials_file(csv: Path) -> Path:
    """The file of trials beside that of runs."""
    return csv.with_name(f"{csv.stem}_trials{csv.suffix}")


def row_folder(study: Path, layout: Layout) -> Path:
    """Where the runs or the trials of a study leave their rows."""
    return study / ("rows" if layout is RUNS else "trial_rows")


def cell(value: object) -> str:
    """The text of a value: floats rounded to six digits behind the point, nothing for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(round(value, 6)) if isinstance(value, float) else str(value)


def number(row: Row, column: str, *, needed: bool = False) -> float:
    """A cell as a finite number; NaN where it is empty. Raises DataError for other text, and for none if `needed`."""
    text = row.get(column, "")
    try:
        value = float(text or math.nan)
    except ValueError:
        value = math.inf
    if math.isinf(value) or (needed and math.isnan(value)):
        raise DataError(f"row {name_of(row)}: {column} is {text!r:.60}; expected a number")
    return value


def name_of(row: Row) -> str:
    """What names a run's row, for people."""
    return "/".join(row.get(name, "") for name in RUNS.key)


def read_rows(path: Path, layout: Layout = RUNS) -> list[dict[str, str]]:
    """The rows of a study's CSV; none where there is no file.

    Raises DataError: no table with the columns that name a row, a line with other cells, or a row that occurs twice.
    """
    if not os.path.lexists(path):
        return []
    try:
        header, *lines = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    except (csv.Error, ValueError) as error:
        raise DataError(f"{path}: not a table of comma-separated values ({error or 'it is empty'})") from None
    if missing := [name for name in layout.key if name not in header]:
        raise DataError(f"{path}: has no column {', '.join(missing)}; expected {', '.join(layout.key)}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}: a column occurs twice: {', '.join(header):.300}")
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for number_, line in enumerate(lines, 2):
        if len(line) != len(header):
            raise DataError(f"{path}: row {number_} has {len(line)} cells; expected {len(header)}, as the first row")
        row = dict(zip(header, line, strict=True))
        if (key := layout.key_of(row)) in found:
            raise DataError(f"{path}: row {number_}: {'/'.join(key)} is there twice; expected a row a run")
        found[key] = row
    return list(found.values())


def write_rows(path: Path, rows: Iterable[Row], layout: Layout = RUNS) -> None:
    """Write rows, sorted, whole or not at all; a file with the same content is left alone."""
    ordered = sorted(rows, key=lambda row: [_natural(one) for one in layout.key_of(row)])
    columns = [*layout.key, *layout.setup, *layout.metrics(ordered), *layout.cost]
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([row.get(name, "") for name in columns] for row in ordered)
    if not path.is_file() or read_text(path) != text.getvalue():
        with replacing(path) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def leave_row(folder: Path, name: str, row: Row) -> Path:
    """Write the row of a finished run to a file of its own in `folder`, for `gather`; returns the file."""
    file = folder / f"{name}.json"
    write_json(file, row)
    return file


def gather(path: Path, folder: Path, layout: Layout = RUNS) -> list[dict[str, str]]:
    """Put the row files of `folder` into the CSV at `path`; returns all its rows.

    Of two rows of a run the later one counts. Any number of processes and machines may do it at once: row files stay,
    so that what one of them does not see yet is added by the next.
    """
    found = {layout.key_of(row): row for row in read_rows(path, layout)}
    for file in sorted(folder.glob("*.json")):
        try:
            row = parse_json(read_text(file))
        except ValueError as error:
            raise DataError(f"{file}: not the row of a run ({error}); remove it, and the run is made again") from None
        if not isinstance(row, dict) or not row.keys() >= {*layout.key, "date"}:
            raise DataError(f"{file}: not the row of a run; remove it, and the run is made again")
        key = layout.key_of(row)
        if key not in found or row["date"] >= found[key].get("date", ""):
            found[key] = row
    if found:
        write_rows(path, found.values(), layout)
    return list(found.values())


def _natural(text: str) -> tuple[float, str]:
    """Numbers by size, and before texts."""
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text
