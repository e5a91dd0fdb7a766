"""Atomic writes, sole use of a folder, and what may be replaced or removed in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sam3_hyperet.errors import ConfigError, StorageError
from sam3_hyperet.files import LOCK, MANIFEST, Manifest, remove_leftovers, replacing, sole_use, write_json

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    file = tmp_path / "sub" / "a.txt"
    for text in ("one", "two"):
        with replacing(file) as temporary:
            temporary.write_text(text)
            assert not file.exists() if text == "one" else file.read_text() == "one"
        assert [path.name for path in file.parent.iterdir()] == ["a.txt"]
    assert file.read_text() == "two"


def test_containers_with_the_same_process_number_write_to_names_of_their_own(tmp_path, monkeypatch):
    """In two containers, processes 1 of hosts of any names."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        monkeypatch.setattr(socket, "gethostname", lambda: "other")
        with replacing(tmp_path / "a") as third:
            assert len({first, second, third}) == 3
            for path in (first, second, third):
                path.write_text(path.name)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_long_names_are_written(tmp_path):
    file = tmp_path / (80 * "语" + ".png")
    with replacing(file) as temporary:
        temporary.write_text("x")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "x"


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
from sam3_hyperet.files import replacing
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
def with_torch(path):
    with path.open("wb") as file:
        torch.save({"a": torch.zeros(100_000)}, file)
ways = {
    "text": lambda path: path.write_text("x" * 100_000),
    "numpy": lambda path: np.save(path.open("wb"), np.zeros(100_000)),
    "torch": with_torch,
    "safetensors": lambda path: save_file({"a": torch.zeros(100_000)}, path),
}
for name, write in ways.items():
    try:
        with replacing(Path(sys.argv[1]) / name) as temporary:
            write(temporary)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    """A limit on the size of files stands for a full disk: writes fail half-way."""
    for name in ("text", "numpy", "torch", "safetensors"):
        (tmp_path / name).write_text("before")
    run = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    lines = run.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"StorageError {tmp_path / name}" for name in ("text", "numpy", "torch", "safetensors")
    ]
    assert all("; expected a place with free space" in line for line in lines)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("text", "numpy", "torch", "safetensors"), "before"
    )


def test_other_errors_are_left_as_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"), replacing(tmp_path / "a"):
        (tmp_path / "b" / "nowhere").read_text()
    with pytest.raises(RuntimeError, match="mine"), replacing(tmp_path / "a"):
        raise RuntimeError("mine")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises((StorageError, OSError), match="a"), replacing(tmp_path / "a" / "b"):
        pass


def test_safetensors_and_torch_write_through_it(tmp_path):
    with replacing(tmp_path / "a.safetensors") as temporary:
        save_file({"a": torch.ones(2)}, temporary)
    with replacing(tmp_path / "a.pt") as temporary:
        torch.save(torch.ones(2), temporary)
    assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", "a.pt"}


HOLD = """
import sys, time
from pathlib import Path
from sam3_hyperet.files import sole_use
with sole_use(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that uses the folder `run`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        yield process
        process.kill()


def test_a_folder_in_use_is_refused_and_that_of_a_dead_process_taken_over(holder, tmp_path):
    folder = tmp_path / "run"
    said = rf"run_dir={folder} is in use by process {holder.pid} on .*, there since .*; expected another run_dir"
    with pytest.raises(ConfigError, match=said), sole_use(folder):
        pass
    holder.kill()
    holder.wait()
    assert (folder / LOCK).exists()
    with sole_use(folder) as notice:
        assert f"taken over from process {holder.pid}" in notice
        with sole_use(folder) as again:
            assert again == ""
        assert (folder / LOCK).exists()
    assert not (folder / LOCK).exists()


def test_without_locks_of_the_file_system_the_process_decides(holder, tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    with pytest.raises(ConfigError, match=rf"process {holder.pid} .*; if that one has ended, remove"):
        sole_use(tmp_path / "run").__enter__()
    holder.kill()
    holder.wait()
    with sole_use(tmp_path / "run") as notice:
        assert "taken over" in notice


@pytest.mark.parametrize(
    ("changes", "quiet", "is_free"),
    [
        ({"kernel": "other"}, False, False),
        ({"kernel": "other"}, True, True),
        ({"kernel": "other", "job": "7", "restarts": "0"}, False, True),
        ({"kernel": "other", "job": "7", "restarts": "1"}, False, False),
        ({"kernel": "other", "job": "8", "restarts": "0"}, False, False),
        ({"host": "a container"}, False, True),
    ],
)
def test_a_holder_on_another_machine(tmp_path, monkeypatch, changes, quiet, is_free):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with sole_use(tmp_path):
        mine = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps(mine | changes))
    if quiet:
        os.utime(tmp_path, (0, time.time() - 3600))
    if is_free:
        with sole_use(tmp_path) as notice:
            assert "taken over" in notice
    else:
        with pytest.raises(ConfigError, match="if that one has ended, remove"), sole_use(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": 1}'])
def test_a_lock_half_written(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with sole_use(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_made_for_nothing_is_gone(tmp_path):
    with sole_use(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
    with sole_use(tmp_path / "run"):
        (tmp_path / "run" / "a").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]


def test_only_names_on_the_list_are_replaced_or_removed(tmp_path):
    manifest = Manifest(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "records").mkdir()
    for name in ("mine.txt", "records"):
        with pytest.raises(ConfigError, match=rf"{name} is there and was not written by an earlier run; it is left"):
            manifest.claim("ours", name)
    assert manifest.names == frozenset()
    manifest.claim("ours", "folder", "folder/file")
    (tmp_path / "ours").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    Manifest(tmp_path).claim("ours")
    Manifest(tmp_path).remove("ours", "folder", "mine.txt", "records", "nowhere")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "records", MANIFEST}
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        Manifest(tmp_path).check("a")


def test_leftovers(tmp_path):
    for name in ("kept", ".kept", ".another's.tmp"):
        (tmp_path / name).touch()
    with contextlib.ExitStack() as stack:
        left = stack.enter_context(replacing(tmp_path / "a.txt"))
        left.touch()
        names = {path.name for path in tmp_path.iterdir()}
        remove_leftovers(tmp_path)
        assert names - {path.name for path in tmp_path.iterdir()} == {left.name}
        left.touch()


def test_a_holder_on_another_machine_that_writes_records_alone(tmp_path):
    """They are two levels below: the folder itself does not change."""
    with sole_use(tmp_path):
        mine = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps(mine | {"kernel": "other"}))
    folder = tmp_path / "records" / "base"
    folder.mkdir(parents=True)
    for path in (tmp_path, folder.parent):
        os.utime(path, (0, time.time() - 3600))
    with pytest.raises(ConfigError, match="if that one has ended, remove"), sole_use(tmp_path):
        pass
    os.utime(folder, (0, time.time() - 3600))
    with sole_use(tmp_path) as notice:
        assert "taken over" in notice


@pytest.mark.parametrize("clock", [0, 3600])
def test_a_holder_on_another_machine_that_writes_records_of_a_dial(tmp_path, monkeypatch, clock):
    """They are three levels below. The clock of this machine may be an hour ahead of the file system's."""
    with sole_use(tmp_path):
        mine = json.loads((tmp_path / LOCK).read_text())
    (tmp_path / LOCK).write_text(json.dumps(mine | {"kernel": "other"}))
    folder = tmp_path / "records" / "dials" / "x"
    folder.mkdir(parents=True)
    for path in (tmp_path, folder.parents[1], folder.parent, folder):
        os.utime(path, (0, time.time() - 1200))
    with replacing(folder / "000000.npz") as file:
        file.touch()
    now = time.time() + clock
    monkeypatch.setattr(time, "time", lambda: now)
    with pytest.raises(ConfigError, match="if that one has ended, remove"), sole_use(tmp_path):
        pass


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"AP": 0.5})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"AP": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"AP": 0.5}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
