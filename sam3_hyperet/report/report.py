"""The report of a run: one HTML file that opens with what became better, what worse and at what cost.

Parts without data are left out; a value that is not finite, or COCO's -1 for "nothing to find", is shown as "–".
"""

import functools
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from sam3_hyperet.files import replacing
from sam3_hyperet.report import tables, text_tables
from sam3_hyperet.report.content import Report
from sam3_hyperet.report.view import breakable, figure, view

_TABLES = {"md": text_tables.markdown_table, "tex": text_tables.latex_table}


def write_report(report: Report, path: Path, *, score_threshold: float = 0.5) -> Path:
    """Write one self-contained HTML file, whole or not at all; its folder is made.

    score_threshold: the images show the detections whose score is at least that.
    Raises DataError, naming the prompt, for masks that do not fit their image.
    """
    return _write_whole(Path(path), _template().render(view(report, score_threshold)))


def write_tables(report: Report, folder: Path) -> list[Path]:
    """Write the main table as comparison.md and comparison.tex into a folder, which is made."""
    texts = {kind: table(report.metrics, report.models) for kind, table in _TABLES.items()}
    return [_write_whole(Path(folder) / f"comparison.{kind}", text) for kind, text in texts.items()]


@functools.cache
def _template() -> Template:
    """The page, compiled once: that takes a fifth of writing a report."""
    loader = PackageLoader("sam3_hyperet.report", "page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "share": tables.number,
        "signed": tables.signed,
        "figure": figure,
        "breakable": breakable,
        "between": tables.between,
    }
    return environment.get_template("report.html.j2")


def _write_whole(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))
    return path
