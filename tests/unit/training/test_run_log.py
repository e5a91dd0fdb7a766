"""metrics.jsonl after a kill, what a job's log shows, and that other processes are silent."""

from __future__ import annotations

import json

import pytest
import rich
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.training.run_files import HISTORY_FILE
from sam3_hyperet.training.run_log import RunLog, read_history


def written(folder, steps, **options):
    log = RunLog(folder, 10, **options)
    for step in steps:
        log.write(step, {"train/loss": step / 3})
    log.close()
    return read_history(folder / HISTORY_FILE)


@settings(deadline=None)
@given(lost=st.integers(0, 40))
def test_a_half_written_last_line_is_left_out(tmp_path_factory, lost):
    folder = tmp_path_factory.mktemp("run")
    lines = written(folder, (1, 2, 3))
    file = folder / HISTORY_FILE
    text = file.read_text()
    file.write_text(text[: len(text) - lost])
    whole = lines[: text[: len(text) - lost].count("\n")]
    assert read_history(file) == whole
    assert written(folder, (3,), start=2) == [line for line in whole if line["step"] <= 2] + lines[2:]


def test_no_history(tmp_path):
    assert read_history(tmp_path / HISTORY_FILE) == []


def test_lines_of_an_earlier_attempt_after_the_start_are_dropped(tmp_path):
    first = written(tmp_path, range(1, 6))
    assert written(tmp_path, (4, 5, 6), start=3)[:5] == first
    assert [line["step"] for line in written(tmp_path, (1,))] == [1]
    assert [file.name for file in tmp_path.iterdir()] == [HISTORY_FILE]


def test_only_finite_figures_are_in_the_file(tmp_path):
    log = RunLog(tmp_path, 2)
    log.write(1, {"a": float("nan"), "b": float("inf"), "c": 1, "d": torch.ones(4, dtype=torch.int64)})
    log.close()
    assert json.loads((tmp_path / HISTORY_FILE).read_text(), parse_constant=pytest.fail) == {"step": 1, "c": 1.0}


def test_without_a_terminal_every_logged_step_is_a_line(tmp_path, capsys, monkeypatch):
    seconds = 0.0
    log = RunLog(tmp_path, 400)
    monkeypatch.setattr(log._bar, "get_time", lambda: seconds)
    for step in range(1, 5):
        seconds += 90  # so slow a pace rich forgets unless told not to
        log.step(step, f"loss {step}  a/very/long/part" + 80 * "x" if step % 2 == 0 else None)
    log.close()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == ["step 2 of 400", "step 4 of 400"]
    assert lines[1].endswith("xxx  9:54:00 left")


def test_at_a_terminal_there_is_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rich, "_console", rich.console.Console(force_terminal=True, width=100))
    log = RunLog(tmp_path, 4)
    log.step(2, "loss 3")
    log.close()
    out = capsys.readouterr().out
    assert "2/4" in out
    assert "step 2 of 4" not in out


def test_another_process_says_and_writes_nothing(tmp_path, capsys):
    log = RunLog(tmp_path, 2, active=False)
    log.step(1, "loss 1")
    log.write(1, {"a": 1.0})
    log.message("hello")
    log.close()
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())
