import math
import re

import pytest
from example_reports import metrics
from hypothesis import given
from hypothesis import strategies as st
from metric_keys import keyed

from sam3_hyperet.report.tables import ALONE, number, rows
from sam3_hyperet.report.text_tables import latex_table, latex_text, markdown_table, markdown_text

HOSTILE = r"a_b & 50% <c> \d {e} #1 $x$ ^~ |é 猫"


def test_the_base_alone_is_called_the_base():
    head, _, row = markdown_table(keyed({"s/segm/AP": 0.5}), ALONE).splitlines()[:3]
    assert [cell for cell in cells(head, "|") if cell] == ["metric", "data", "base"]
    assert [cell for cell in cells(row, "|") if cell] == ["Mask AP", "s", ".500"]
    lines = latex_table(keyed({"s/segm/AP": 0.5}), ALONE).splitlines()
    assert lines[3] == r"metric & data & base \\"
    assert lines[5] == r"Mask AP & s & .500 \\"


@pytest.mark.parametrize(
    ("figures", "intervals", "lower", "best"),
    [
        ((0.5, 0.6), [(0.05, 0.15)], False, 0),
        ((0.5, 0.6), [(-0.05, 0.15)], False, None),
        ((0.5, 0.6), [None], False, None),
        ((0.5, 0.4), [(-0.15, -0.05)], False, -1),
        ((0.5, 0.4), [(-0.15, -0.05)], True, 0),
        ((0.5, 0.6, 0.7), [(0.05, 0.15), (0.1, 0.3)], False, 1),
        ((0.5, 0.6, 0.7), [(0.05, 0.15), (-0.1, 0.5)], False, None),
        ((0.5, 0.4, 0.45), [(-0.2, -0.05), (-0.2, 0.1)], False, None),
        ((0.5, math.nan), [(0.05, 0.15)], False, None),
    ],
)
def test_best_is_only_what_the_interval_supports(figures, intervals, lower, best):
    key = "unassigned" if lower else "segm/AP"
    models = tuple(f"m{k}" for k in range(len(intervals)))
    found = {f"base/s/{key}": figures[0]} | {f"{m}/s/{key}": x for m, x in zip(models, figures[1:], strict=True)}
    for m, interval in zip(models, intervals, strict=True):
        if interval:
            found |= {f"difference/{m}/s/{key}/low": interval[0], f"difference/{m}/s/{key}/high": interval[1]}
    found = keyed(found, models)
    (row,) = rows(found, models)
    assert row.best == best
    bold = re.findall(r"\*\*(.*?)\*\*", markdown_table(found, models))
    assert bold == ([] if best is None else [number(figures[best + 1], 3)])


def cells(line, separator):
    return [cell.strip() for cell in re.split(rf"(?<!\\){re.escape(separator)}", line)]


def test_markdown_reads_back():
    found = metrics(base=0.1, adapted=0.3, interval=(0.1, 0.25)) | metrics("scenes/part", 0.2, 0.2)
    table = [cells(line, "|")[1:-1] for line in markdown_table(keyed(found)).splitlines() if line.startswith("|")]
    assert table[0] == ["metric", "data", "base", "adapted", "difference"]
    assert table[1] == ["---", "---", "---:", "---:", "---:"]
    assert table[2:] == [
        ["Mask AP", "scenes · part", ".200", ".200", "±.000"],
        ["Mask AP", "scenes · group", ".100", "**.300**", "+.200 (+.100 to +.250)"],
    ]


def test_latex_reads_back():
    found = metrics(base=0.3, adapted=0.1, interval=(-0.25, -0.1)) | metrics("scenes/part", 0.2, 0.2, "mIoU")
    lines = latex_table(keyed(found)).splitlines()
    assert lines[0].startswith("% ")
    assert lines[1:3] == [r"\begin{tabular}{llrrr}", r"\toprule"]
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    assert lines.count(r"\midrule") == 2
    table = [cells(line.removesuffix(r" \\"), "&") for line in lines if line.endswith(r"\\")]
    assert [len(row) for row in table] == [5, 5, 5]
    assert table[1] == [
        *("Mask AP", r"scenes $\cdot$ group", r"\textbf{.300}", ".100"),
        "$-$.200 ($-$.250 to $-$.100)",
    ]


@pytest.mark.parametrize("table", [latex_table, markdown_table])
def test_hostile_names_keep_the_columns(table):
    found = {f"base/{HOSTILE}/segm/AP": 0.1, f"{HOSTILE}/{HOSTILE}/segm/AP": 0.2, f"b/{HOSTILE}/segm/AP": 0.2}
    text = table(keyed(found, (HOSTILE, "b")), (HOSTILE, "b"))
    separator, end = ("&", r"\\") if table is latex_table else ("|", "|")
    counts = {len(cells(line, separator)) for line in text.splitlines() if line.endswith(end)}
    assert counts == ({7} if table is latex_table else {9})


@given(st.text())
def test_latex_text_is_balanced_and_harmless(text):
    escaped = latex_text(text)
    assert "\n" not in escaped
    bare = re.sub(r"\\[&%$#_{}]", "", escaped)
    bare = re.sub(r"\\(text[a-z]+\{\}|cdot\b|pm\b)", "", bare)
    assert not re.search(r"[&%#_{}~^\\<>|]", bare)
    assert bare.count("$") % 2 == 0


@given(st.text())
def test_markdown_text_stays_in_its_cell(text):
    escaped = markdown_text(text)
    assert "\n" not in escaped
    assert not re.search(r"[|*_<`]", re.sub(r"\\(?:[^\w\s]|_)", "", escaped))
    assert re.sub(r"\\([^\w\s]|_)", r"\1", escaped).split() == text.split()
