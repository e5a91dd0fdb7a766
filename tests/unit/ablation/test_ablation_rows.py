"""The CSV of a study: sorted, whole, gathered from the row files of any number of runs."""

from __future__ import annotations

import pytest

from sam3_hyperet.ablation.rows import RUNS, cell, gather, leave_row, number, read_rows, write_rows
from sam3_hyperet.errors import DataError


def row(arm: str = "a", seed: int = 0, **more: object) -> dict[str, str]:
    values = {"plan": "p", "data": "d", "base": "b", "arm": arm, "seed": seed, "images": "all", "date": "2026-01-01"}
    return {name: cell(value) for name, value in {**values, **more}.items()}


def test_rows_are_sorted_and_come_back(tmp_path):
    file = tmp_path / "rows.csv"
    write_rows(file, [row(seed=10, gain=0.1234567), row("b", seed=2, lost=-0.5), row(seed=9, gain=float("nan"))])
    header, *lines = file.read_text().splitlines()
    assert header.split(",")[:6] == list(RUNS.key)
    assert header.split(",")[6:] == [*RUNS.setup, "gain", "lost", *RUNS.cost]
    assert [line.split(",")[3:5] for line in lines] == [["a", "9"], ["a", "10"], ["b", "2"]]
    found = read_rows(file)
    assert [one["gain"] for one in found] == ["", "0.123457", ""]
    assert number(found[1], "gain") == 0.123457
    assert number(found[1], "nothing") != number(found[1], "nothing")
    assert RUNS.metrics(found) == ["gain", "lost"]
    before = file.stat().st_mtime_ns
    write_rows(file, found)
    assert file.stat().st_mtime_ns == before
    assert read_rows(tmp_path / "none.csv") == []


def test_row_files_are_gathered_and_the_later_row_counts(tmp_path):
    file, folder = tmp_path / "rows.csv", tmp_path / "rows"
    write_rows(file, [row(gain=0.1), row("b", gain=0.2)])
    leave_row(folder, "a", row(gain=0.3, date="2026-01-02"))
    leave_row(folder, "b", row("b", gain=0.9, date="2025-01-01"))
    leave_row(folder, "c", row("c", gain=0.4))
    assert [one["gain"] for one in gather(file, folder)] == ["0.3", "0.2", "0.4"]
    assert [one["gain"] for one in read_rows(file)] == ["0.3", "0.2", "0.4"]
    (folder / "d.json").write_text('{"plan": "p"')
    with pytest.raises(DataError, match=r"d\.json: not the row of a run"):
        gather(file, folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table of comma-separated values"),
        ("plan,data\np,d\n", "has no column base, arm, seed, images"),
        ("plan,data,base,arm,seed,images,x,x\n", "a column occurs twice"),
        ("plan,data,base,arm,seed,images\np,d,b,a,0\n", "row 2 has 5 cells; expected 6"),
        ("plan,data,base,arm,seed,images\n" + "p,d,b,a,0,all\n" * 2, "row 3: p/d/b/a/0/all is there twice"),
    ],
)
def test_what_is_no_file_of_rows_is_named(tmp_path, text, message):
    file = tmp_path / "rows.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_rows(file)
    with pytest.raises(DataError, match="row p/d/b/a/0/all: gain is 'high'; expected a number"):
        number(row(gain="high"), "gain")
