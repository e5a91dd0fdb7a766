import math
import re

import pytest
from example_reports import metrics
from hypothesis import given
from hypothesis import strategies as st
from metric_keys import keyed

from sam3_hyperet.report import tables
from sam3_hyperet.report.pairs import pair_table
from sam3_hyperet.report.tables import (
    ALONE,
    category_tables,
    latex_table,
    latex_text,
    markdown_table,
    markdown_text,
    number,
    other_keys,
    rows,
    signed,
)

HOSTILE = r"a_b & 50% <c> \d {e} #1 $x$ ^~ |é 猫"


def test_rows():
    table = rows(
        keyed(
            {
                **metrics("scenes/object"),
                **metrics("scenes/part", interval=(0.3, 0.36)),
                **metrics("scenes/fused", 0.1, 0.2, "unassigned"),
                **metrics("scenes/object", 0.9, 0.8, "presence/accuracy_absent", (-0.15, -0.05)),
                "scenes/segm/AP/wheel": 0.1,
                "scenes/forgetting/part/segm/AP": 0.1,
                "scenes/segm/AP@100/img": 0.1,
            }
        )
    )
    assert [(row.metric.name, row.label, row.cells[0].verdict) for row in table] == [
        ("Mask AP", "scenes · part", "better"),
        ("Mask AP", "scenes · object", "same"),  # without an interval
        ("Right about what is absent", "scenes · object", "worse"),
        ("Unassigned", "scenes · fused", "same"),
    ]


def test_numbers():
    assert [number(x) for x in (0.344, 0, 1.0, -0.07, -0.001, None, math.nan)] == [
        *(".34", ".00", "1.00", "−.07", ".00"),
        *("–", "–"),
    ]
    assert [signed(x, 2) for x in (0.33, -0.07, 0.001, -0.001, None)] == ["+.33", "−.07", "±.00", "±.00", "–"]


def test_keys_of_several_models_are_one_row():
    found = {"base/s/segm/AP": 0.1, "a/s/segm/AP": 0.2, "b/s/segm/AP": 0.05, "b/s/segm/AP/car": 0.3, "b/s/images": 4}
    found |= {"difference/a/s/segm/AP": 0.1, "difference/a/s/segm/AP/low": 0.05, "difference/a/s/segm/AP/high": 0.2}
    found = keyed(found, ("a", "b"))
    (row,) = rows(found, ("a", "b"))
    assert [(cell.value, cell.verdict, cell.supported) for cell in row.cells] == [
        (0.2, "better", True),
        (0.05, "same", False),  # without an interval
    ]
    assert list(category_tables(found, ("a", "b"))) == ["s: mask AP"]
    assert other_keys(found) == ["s/images"]


def test_adapted_models_are_tested_against_each_other():
    found = {f"{name}/s/segm/AP": x for name, x in (("base", 0.1), ("a", 0.2), ("b", 0.5), ("c", 0.25))}
    found |= {"between/b/a/s/segm/AP": 0.3, "between/b/a/s/segm/AP/low": 0.2, "between/b/a/s/segm/AP/high": 0.4}
    found |= {"between/c/a/s/segm/AP": 0.05, "between/c/b/s/segm/AP": -0.25, "between/c/b/s/segm/AP/dropped": 3.0}
    table = pair_table(keyed(found, ("a", "b", "c")), ("a", "b", "c"), lambda row: row.label)
    assert table.pairs == (("b", "a"), ("c", "a"), ("c", "b"))
    ((label, cells_of_row),) = table.rows
    assert (label, table.tests) == ("Mask AP · s", 1)
    assert table.sentences == ["b than a: better in 1, worse in 0"]  # nothing was tested of the others
    assert [(cell.difference, cell.verdict) for cell in cells_of_row] == [
        *((0.3, "better"), (0.05, "same"), (-0.25, "same")),
    ]
    assert other_keys(keyed(found, ("a", "b", "c"))) == []
    assert pair_table(keyed(metrics()), (), str) is None


def test_in_sight_of_pairs_are_all_concepts_and_the_aps_of_groups_that_are_no_part_of_others():
    places = [("s", ""), ("s/part", ""), ("s/held_out", ""), ("s/held_out_parts", ""), ("s/fused", "mIoU")]
    places += [("s", "bbox/AP"), ("s", "presence/accuracy_absent"), ("s/held_out", "presence/accuracy_absent")]
    found = {}
    for k, (scope, key) in enumerate(places):
        name = f"{scope}/{key or 'segm/AP'}"
        found |= {f"{model}/{name}": 0.5 + k / 50 for model in ("base", "a", "b")} | {f"between/b/a/{name}": 0.1}
    table = pair_table(keyed(found, ("a", "b")), ("a", "b"), lambda row: row.label)
    assert [label for label, _ in table.main] == [
        *("Mask AP · s", "Mask AP · s · held-out", "mIoU · s · fused", "Right about what is absent · s"),
    ]
    assert len(table.rows) == len(places)


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


def test_an_interval_ends_where_differences_of_fractions_do():
    ends = {"difference/d/mIoU/low": 0.9, "difference/d/mIoU/high": 1.04}
    assert tables.tested_cell(ends, "difference/d/mIoU", 1.0, 0.97, lower_is_better=False, base=None).interval == (
        0.9,
        1.0,
    )
