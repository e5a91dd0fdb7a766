"""The page of a study: tables and figures from the CSV, between markers; what people write around them stays."""

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sam3_hyperet.ablation.analysis import Analysis, analyse
from sam3_hyperet.ablation.figure import arms_figure, differences_figure, svg_of
from sam3_hyperet.ablation.plan import Plan
from sam3_hyperet.ablation.results import read_results
from sam3_hyperet.ablation.rows import TRIALS, read_rows, trials_file
from sam3_hyperet.ablation.runs import choice_lines, choices_of, trials_of
from sam3_hyperet.ablation.table import answers, arms_table, bases_table, differences_table, verdict_lines
from sam3_hyperet.errors import DataError
from sam3_hyperet.files import replacing
from sam3_hyperet.reading import read_text
from sam3_hyperet.report.text_tables import markdown_text

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


@dataclass(frozen=True)
class _Figure:
    """A figure's file, and what it shows."""

    name: str
    caption: str
    svg: str


def write_evidence(
    csv: str | Path,
    plan: Plan,
    folder: str | Path,
    notes: Sequence[str] = (),
    stale: Collection[tuple[str, ...]] = (),
) -> Evidence:
    """Write a plan's tables to `evidence.md` in a folder, and its figures to `images/` beside it.

    A block stands between lines `<!-- begin ablation PLAN/BLOCK -->` and `<!-- end ablation PLAN/BLOCK -->`; the blocks
    are answers, arms, differences and bases; all but the last have the `notes`, as of what failed. Those that the page
    has are replaced, where they stand; a page with none of the plan's gets all of them at its end. Nothing else
    changes, and files that would stay the same are left alone. Rows that are `stale` are left out, as by
    `read_results`.

    Raises DataError for rows, as `read_results`, and for markers that do not pair.
    """
    folder = Path(folder)
    page = folder / PAGE
    text = read_text(page) if page.exists() else f"# {plan.question or plan.name}\n"
    present = _blocks_of(text, plan.name, page)
    results = read_results(csv, plan, stale)
    analysis = analyse(replace(results, notes=(*results.notes, *notes)), plan)
    figures = _figures(analysis)
    choices = choices_of(trials_of(plan), read_rows(trials_file(Path(csv)), TRIALS))
    blocks = {
        "answers": answers(analysis),
        "arms": arms_table(analysis, [line for line in choice_lines(plan, choices) if "warning: " in line]),
        "differences": differences_table(analysis),
        "bases": bases_table(analysis),
    }
    for block, drawn in figures.items():
        links = [f"![{markdown_text(one.caption)}]({FIGURES}/{one.name})" for one in drawn]
        blocks[block] = "\n\n".join([*links, blocks[block]])
    if not present:
        for name, heading in _HEADINGS.items():
            text = f"{text.rstrip()}\n\n## {heading}\n\n{_begin(plan.name, name)}\n{_end(plan.name, name)}\n"
    for name, content in blocks.items():
        begin, end = _begin(plan.name, name), _end(plan.name, name)
        before, found, rest = text.partition(f"{begin}\n")
        if found:
            text = f"{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"
    written = {page: text, **{folder / FIGURES / one.name: one.svg for drawn in figures.values() for one in drawn}}
    for path, content in written.items():
        if not path.is_file() or read_text(path) != content:
            with replacing(path) as temporary:
                temporary.write_text(content, encoding="utf-8", newline="")
    return Evidence(tuple(written), tuple(verdict_lines(analysis)))


def _figures(analysis: Analysis) -> dict[str, list[_Figure]]:
    """Figures by block: arms of each setting; differences of each world, of all its numbers of images."""
    plan = analysis.plan
    of_arms, of_differences = [], []
    for setting, arms in analysis.arms.items():
        world = plan.data[setting.data]
        caption = "gain by arm with 95 % intervals, means of the bases as marks; at the side what is lost"
        drawn = arms_figure(arms, world.gain, world.lost, plan.dial.lost)
        name = f"{plan.name}_arms_{setting.data}_{setting.images}.svg"
        of_arms.append(_Figure(name, f"{setting.name}: {caption}", svg_of(drawn)))
    for data in dict.fromkeys(setting.data for setting in analysis.differences if plan.comparisons):
        settings = [setting for setting in analysis.differences if setting.data == data]
        pairs = itertools.product(range(len(plan.comparisons)), settings)
        named = [(analysis.differences[setting][k], setting) for k, setting in pairs]
        rows = [(one.name if len(settings) == 1 else f"{one.name}, {setting.images}", one) for one, setting in named]
        caption = "differences of gain between pairs, with 95 % (thin) and 90 % (thick) intervals and the margin"
        caption += "; behind a name the number of training images" if len(settings) > 1 else ""
        drawn = differences_figure(rows, plan.margin)
        of_differences.append(_Figure(f"{plan.name}_differences_{data}.svg", f"{data}: {caption}", svg_of(drawn)))
    return {"arms": of_arms, "differences": of_differences}


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
