"""The main table of a comparison as Markdown and as LaTeX (booktabs): metrics by model, with differences.

A figure is bold where it is the best and its 95 % interval supports that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from sam3_hyperet.report.table_rows import Cell, Row, between, number, prefixes, rows, signed

_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "+": "$+$",
    "±": r"$\pm$",
    "–": "--",
    "·": r"$\cdot$",
    "’": "'",
}
_NOTE = (
    "Differences are from the base, with the 95 % interval of a paired bootstrap over the pictures where there is one; "
    "bold is the best figure of a row where its interval does not hold 0. "
    "Adapted models are not tested against each other."
)


def markdown_table(metrics: Mapping[str, float], models: Sequence[str] = ()) -> str:
    """A pipe table with a note below it; ends in a newline."""
    escape = markdown_text
    table, adapted = rows(metrics, models), list(prefixes(models))
    head = ["metric", "data", "base"]
    for name in adapted:
        head += [escape(name), "difference" if len(adapted) == 1 else f"{escape(name)} − base"]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for row in table:
        lines.append([escape(row.metric.name), escape(row.label), *_figures(row, escape, lambda text: f"**{text}**")])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_NOTE}\n"


def latex_table(metrics: Mapping[str, float], models: Sequence[str] = ()) -> str:
    r"""A `tabular` for `\usepackage{booktabs}`, metrics separated by `\midrule`; the note is a comment above it."""
    escape = latex_text
    table, adapted = rows(metrics, models), list(prefixes(models))
    head = ["metric", "data", "base"]
    for name in adapted:
        head += [escape(name), "difference"]
    lines = [f"% {_NOTE}", rf"\begin{{tabular}}{{ll{'r' * (1 + 2 * len(adapted))}}}", r"\toprule", _latex_line(head)]
    for metric, found in groupby(table, key=lambda row: row.metric):
        lines.append(r"\midrule")
        for k, row in enumerate(found):
            name = "" if k else escape(metric.name)
            lines.append(_latex_line([name, escape(row.label), *_figures(row, escape, r"\textbf{{{}}}".format)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", " ".join(text.split()))


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is, on one line."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _figures(row: Row, escape: Callable[[str], str], bold: Callable[[str], str]) -> list[str]:
    best = row.best
    found = [_bold_if(best == -1, escape(number(row.base, 3)), bold)]
    for k, cell in enumerate(row.cells):
        found += [_bold_if(best == k, escape(number(cell.value, 3)), bold), escape(_difference(cell))]
    return found


def _bold_if(condition: bool, text: str, bold: Callable[[str], str]) -> str:
    return bold(text) if condition else text


def _difference(cell: Cell) -> str:
    return signed(cell.difference) + (f" ({between(cell.interval)})" if cell.interval else "")


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
