"""The main table of a comparison as Markdown and as LaTeX (booktabs), and text that either shows as it is."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from sam3_hyperet.report.tables import ALONE, BASE, Row, between, number, prefixes, rows, signed

_LATEX_WORDS = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater", "|": "bar"}
_LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
_LATEX |= {character: rf"\text{word}{{}}" for character, word in _LATEX_WORDS.items()}
_LATEX |= {"−": "$-$", "+": "$+$", "±": r"$\pm$", "–": "--", "·": r"$\cdot$", "’": "'"}
_NOTE = (
    "Differences are from the base, with the 95 % interval of a paired bootstrap over the images where there is one; "
    "bold is the best value of a row where its interval excludes 0. "
    "Bold says nothing about adapted models beside each other."
)


def markdown_table(metrics: Mapping[str, float], models: Sequence[str] = ()) -> str:
    """A pipe table with a note below it; ends in a newline."""
    adapted, head = [markdown_text(name) for name in prefixes(models)], ["metric", "data", BASE]
    for name in adapted if tuple(models) != ALONE else ():
        head += [name, "difference" if len(adapted) == 1 else f"{name} − base"]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    lines += [_texts(row, markdown_text, "**{}**", models) for row in rows(metrics, models)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{_NOTE}\n"


def latex_table(metrics: Mapping[str, float], models: Sequence[str] = ()) -> str:
    r"""A `tabular` for `\usepackage{booktabs}`, metrics separated by `\midrule`; the note is a comment above it."""
    head = ["metric", "data", BASE]
    for name in prefixes(models) if tuple(models) != ALONE else ():
        head += [latex_text(name), "difference"]
    lines = [f"% {_NOTE}", rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}", r"\toprule", rf"{' & '.join(head)} \\"]
    for _, found in groupby(rows(metrics, models), key=lambda row: row.metric):
        lines.append(r"\midrule")
        for k, row in enumerate(found):
            name, *others = _texts(row, latex_text, r"\textbf{{{}}}", models)
            lines.append(" & ".join(["" if k else name, *others]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~$&#])", r"\\\1", " ".join(text.split()))


def latex_text(text: str) -> str:
    """Text that LaTeX prints as it is, on one line."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _texts(row: Row, escape: Callable[[str], str], bold: str, models: Sequence[str]) -> list[str]:
    """The texts of a row's cells, the best value in the format `bold`."""
    if tuple(models) == ALONE:
        return [escape(text) for text in (row.metric.name, row.label, number(row.cells[0].value, 3))]
    best = row.best
    texts = [row.metric.name, row.label, number(row.base, 3)]
    for cell in row.cells:
        interval = f" ({between(cell.interval)})" if cell.interval else ""
        texts += [number(cell.value, 3), signed(cell.difference) + interval]
    texts = [escape(text) for text in texts]
    if best is not None:
        place = 2 if best == -1 else 3 + 2 * best
        texts[place] = bold.format(texts[place])
    return texts
