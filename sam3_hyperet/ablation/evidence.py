"""The page of a study: tables and figures from the CSV, between markers; what people write around them stays."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sam3_hyperet.ablation.analysis import Analysis, analyse
from sam3_hyperet.ablation.figure import arms_figure, differences_figure, svg_of
from sam3_hyperet.ablation.plan import Plan
from sam3_hyperet.ablation.results import Setting, read_results
from sam3_hyperet.ablation.table import answers, arms_table, bases_table, differences_table, verdict_lines
from sam3_hyperet.errors import DataError
from sam3_hyperet.files import replacing
from sam3_hyperet.reading import read_text
from sam3_hyperet.report.tables import markdown_text

PAGE = "evidence.md"
FIGURES = "images"
_HEADINGS = {
    "answers": "Answers",
    "arms": "Arms",
    "differences": "Differences",
    "bases": "Further bases",
}
_MARKER = re.compile(r"^<!-- (begin|end) ablation ([^\s/]+)/(\S+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Evidence:
    """What was written: the page and the figures, and the verdicts as lines to print."""

    files: tuple[Path, ...]
    lines: tuple[str, ...]


def write_evidence(csv: str | Path, plan: Plan, folder: str | Path) -> Evidence:
    """Write a plan's tables to `evidence.md` in a folder, and its figures to `images/` beside it.

    A block stands between lines `<!-- begin ablation PLAN/BLOCK -->` and `<!-- end ablation PLAN/BLOCK -->`; the blocks
    are answers, arms, differences and bases. Those that the page has are replaced, where they stand; a page with none
    of the plan's gets all of them at its end. Nothing else changes, and files that would stay the same are left alone.

    Raises DataError for rows, as `read_results`, and for markers that do not pair.
    """
    folder = Path(folder)
    page = folder / PAGE
    text = read_text(page) if page.exists() else f"# {plan.question or plan.name}\n"
    present = _blocks_of(text, plan.name, page)
    analysis = analyse(read_results(csv, plan), plan)
    figures = _figures(analysis)
    blocks = _blocks(analysis)
    if not present:
        for name, heading in _HEADINGS.items():
            text = f"{text.rstrip()}\n\n## {heading}\n\n{_begin(plan.name, name)}\n{_end(plan.name, name)}\n"
    for name, content in blocks.items():
        begin, end = _begin(plan.name, name), _end(plan.name, name)
        before, found, rest = text.partition(f"{begin}\n")
        if found:
            text = f"{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"
    written = {page: text, **{folder / FIGURES / name: svg for name, svg in figures.items()}}
    for path, content in written.items():
        if not path.is_file() or read_text(path) != content:
            with replacing(path) as temporary:
                temporary.write_text(content, encoding="utf-8", newline="")
    return Evidence(tuple(written), tuple(verdict_lines(analysis)))


def _blocks(analysis: Analysis) -> dict[str, str]:
    """The content of each block, in the order of `_HEADINGS`."""
    arms, differences = (_pictures(analysis, kind) for kind in ("arms", "differences"))
    if not analysis.plan.comparisons:
        differences = ""
    return {
        "answers": answers(analysis),
        "arms": f"{arms}\n\n{arms_table(analysis)}",
        "differences": f"{differences}\n\n{differences_table(analysis)}".strip(),
        "bases": bases_table(analysis),
    }


def _pictures(analysis: Analysis, kind: str) -> str:
    captions = {
        "arms": "gain by arm with 95 % intervals, means of the bases as marks; at the side what is lost",
        "differences": "differences of gain between pairs, with 95 % (thin) and 90 % (thick) intervals and the margin",
    }
    lines = [
        f"![{markdown_text(setting.name)}: {captions[kind]}]({FIGURES}/{_file(analysis, kind, setting)})"
        for setting in analysis.arms
    ]
    return "\n\n".join(lines)


def _figures(analysis: Analysis) -> Mapping[str, str]:
    """SVG by file name."""
    drawn = {}
    for setting, arms in analysis.arms.items():
        world = analysis.plan.data[setting.data]
        figure = arms_figure(arms, world.gain, world.lost, analysis.plan.dial.lost)
        drawn[_file(analysis, "arms", setting)] = svg_of(figure)
    for setting, differences in analysis.differences.items():
        if differences:
            figure = differences_figure(differences, analysis.plan.margin)
            drawn[_file(analysis, "differences", setting)] = svg_of(figure)
    return drawn


def _file(analysis: Analysis, kind: str, setting: Setting) -> str:
    return f"{analysis.plan.name}_{kind}_{setting.data}_{setting.images}.svg"


def _begin(plan: str, block: str) -> str:
    return f"<!-- begin ablation {plan}/{block} -->"


def _end(plan: str, block: str) -> str:
    return f"<!-- end ablation {plan}/{block} -->"


def _blocks_of(text: str, plan: str, page: Path) -> list[str]:
    """The plan's blocks on a page. Raises DataError: an unknown or repeated one, or one that is not closed."""
    found: list[str] = []
    opened = ""
    for kind, of, block in _MARKER.findall(text):
        name = f"{of}/{block}"
        if (kind == "begin") == bool(opened) or (kind == "end" and opened != name):
            raise DataError(
                f"{page}: the marker `{kind} ablation {name}` is out of order; expected begin and end in pairs"
            )
        opened = name if kind == "begin" else ""
        if kind == "begin" and of == plan:
            if block not in _HEADINGS or block in found:
                what = "occurs twice" if block in found else f"is unknown; expected one of {', '.join(_HEADINGS)}"
                raise DataError(f"{page}: the block {name!r} {what}")
            found.append(block)
    if opened:
        raise DataError(f"{page}: the block {opened!r} has no end; expected the line `{_end(*opened.split('/'))}`")
    return found
