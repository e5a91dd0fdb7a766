"""A saved state comes back exactly, is known when damaged, and leaves the one before beside it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.files import remove_leftovers
from sam3_hyperet.training.state import previous_state, read_state, restore_state, save_state


@pytest.fixture
def trained():
    model = nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, 3)).square().sum().backward()
    optimizer.step()
    return model, optimizer


def test_everything_comes_back(trained, tmp_path):
    model, optimizer = trained
    path = tmp_path / "state.pt"
    save_state(path, model, optimizer, {"step": 7, "best": 0.25})
    draws = torch.rand(3)
    other = nn.Linear(3, 4)
    fresh = torch.optim.AdamW(other.parameters(), lr=0.7)
    state = read_state(path)
    assert state["progress"] == {"step": 7, "best": 0.25}
    restore_state(path, state, other, fresh)
    assert torch.equal(torch.rand(3), draws)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert fresh.param_groups[0]["lr"] == 0.1
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert all(torch.equal(optimizer.state[p][key], fresh.state[q][key]) for key in ("step", "exp_avg"))


def test_the_one_before_is_kept_and_used_where_the_last_is_damaged(trained, tmp_path, caplog):
    path = tmp_path / "state.pt"
    for step in (1, 2, 3):
        save_state(path, *trained, {"step": step})
    save_state(path, *trained, {"step": 3}, is_of_new_step=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["previous_state.pt", "state.pt"]
    assert read_state(path)["progress"]["step"] == 3
    content = path.read_bytes()
    for damaged in (content[:100], b"", content[:700] + bytes([content[700] ^ 1]) + content[701:], content + b"x"):
        path.write_bytes(damaged)
        caplog.clear()
        assert read_state(path)["progress"]["step"] == 2
        assert f"going on from {previous_state(path)}" in caplog.text


@pytest.mark.parametrize("content", [b"", b"not a state", pickle.dumps({"trained": {}})])
def test_a_file_that_is_no_state(tmp_path, content):
    path = tmp_path / "state.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state\.pt: "):
        read_state(path)


def test_a_state_of_another_version(trained, tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    monkeypatch.setattr("sam3_hyperet.training.state._FORMAT", 1)
    save_state(path, *trained, {"step": 1})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"state.pt: format 1, expected 3: .* use resume=never"):
        read_state(path)


def test_a_state_of_other_parameters(trained, tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, *trained, {"step": 1})
    other = nn.Linear(3, 4, bias=False)
    with pytest.raises(CheckpointError, match="trains other parameters than this run, first bias"):
        restore_state(path, read_state(path), other, torch.optim.AdamW(other.parameters()))


def test_without_hard_links_the_one_before_is_copied(trained, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    path = tmp_path / "state.pt"
    for step in (1, 2, 3):
        save_state(path, *trained, {"step": step})
    assert read_state(previous_state(path))["progress"]["step"] == 2
    assert sorted(file.name for file in tmp_path.iterdir()) == ["previous_state.pt", "state.pt"]


def test_a_failed_write_leaves_what_was_there(trained, tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(path, *trained, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_state(path, *trained, {"step": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert read_state(path)["progress"]["step"] == 1


def test_a_state_is_on_the_disk_before_it_gets_its_name(trained, tmp_path, monkeypatch):
    """Where the power fails, there is else a name without the content."""
    done, replace = [], Path.replace

    def noted(what, status):
        done.append((what, status.st_ino, status.st_size))

    def noted_replace(temporary, target):
        noted("renamed", temporary.stat())
        return replace(temporary, target)

    monkeypatch.setattr(os, "fsync", lambda descriptor: noted("flushed", os.fstat(descriptor)))
    monkeypatch.setattr(Path, "replace", noted_replace)
    save_state(tmp_path / "state.pt", *trained, {"step": 1})
    written = (tmp_path / "state.pt").stat()
    assert done == [(what, written.st_ino, written.st_size) for what in ("flushed", "renamed")]


def test_what_a_killed_process_left_is_removed(trained, tmp_path, monkeypatch):
    """Killed where the file is whole and not renamed yet, and where it has linked the one before."""
    path = tmp_path / "state.pt"
    save_state(path, *trained, {"step": 1})
    monkeypatch.setattr(type(path), "unlink", lambda *_, **__: None)
    monkeypatch.setattr(type(path), "replace", lambda *_: pytest.exit("killed"))
    with pytest.raises(pytest.exit.Exception):
        save_state(path, *trained, {"step": 2})
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 3
    remove_leftovers(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert read_state(path)["progress"]["step"] == 1
    save_state(path, *trained, {"step": 2})
    assert read_state(path)["progress"]["step"] == 2
