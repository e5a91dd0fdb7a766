"""An evaluation killed at any moment goes on to the same metrics; processes that share one end in the same metrics."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from forked_tools import EVALUATE, run_forked

from sam3_hyperet.evaluation.protocol import FUSIONS

pytestmark = pytest.mark.integration
PICTURES = 8
RECORDS = 3 * PICTURES  # of two models, and of the base's own answers


@pytest.fixture(scope="module")
def command(trained, tmp_path_factory):
    """Two models on a few pictures, with every evaluator; the base's own answers to what no label names."""
    root = tmp_path_factory.mktemp("pictures")
    options = ["protocol.examples=1", "protocol.bootstrap=5", f"data.splits.val={PICTURES}", f"data.root={root}"]
    options += ["kept.names=[red car,green tree,airplane]"]
    return [f"adapter={trained / 'adapter.safetensors'}", *_model(trained), "data=scenes", "threads=1", *options]


@pytest.fixture(scope="module")
def undisturbed(command, tmp_path_factory):
    """An evaluation in one process that nothing disturbs."""
    return evaluated([*command, "keep_records=true"], tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def expected(undisturbed):
    return figures(undisturbed)


def confusion(folder: Path, model: str, fusion: str) -> dict[int, int]:
    """Pixels of each pair of prediction and label, over all pictures."""
    pixels: Counter[int] = Counter()
    for file in (folder / "records" / model).glob("*.npz"):
        with np.load(file) as record:
            names = (f"label_maps/{fusion}/pairs", f"label_maps/{fusion}/pixels")
            pixels.update(dict(zip(*(record[name].tolist() for name in names), strict=True)))
    return pixels


def _model(trained: Path) -> list[str]:
    from omegaconf import OmegaConf

    checkpoint = OmegaConf.load(trained / "config.yaml").model.checkpoint
    return ["model=tiny", f"model.checkpoint={checkpoint or 'null'}"]


def evaluated(command: list[str], folder: Path) -> Path:
    from sam3_hyperet.cli.evaluate import main

    return main([*command, f"run_dir={folder}"])


def figures(folder: Path) -> dict[str, float]:
    metrics = json.loads((folder / "metrics.json").read_text())
    assert len(metrics) > 300
    assert metrics["base/scenes/kept/segm/AP"] == pytest.approx(1.0)
    return {key: value for key, value in metrics.items() if "speed/" not in key}


def records(folder: Path) -> set[Path]:
    return set(folder.glob("records/*/*.npz"))


def test_killed_at_five_random_moments_and_resumed(command, expected, tmp_path):
    """Real SIGKILLs of real processes, each after so many more records and a random moment."""
    moments = random.Random(0)
    fork = multiprocessing.get_context("fork")  # imports cost more than the evaluation
    grown = []
    for _ in range(5):
        before = records(tmp_path)
        process = fork.Process(target=evaluated, args=(command, tmp_path))
        process.start()
        deadline = time.monotonic() + 120
        while len(records(tmp_path)) < len(before) + 2 and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert before <= records(tmp_path)
        grown.append(len(records(tmp_path)) - len(before))
    assert min(grown) > 0
    assert len(records(tmp_path)) < RECORDS
    kept = {path: path.stat().st_mtime_ns for path in records(tmp_path)}
    damaged = min(kept)
    damaged.write_bytes(damaged.read_bytes()[:-7])
    folder = evaluated([*command, "keep_records=true"], tmp_path)
    assert figures(folder) == expected
    assert len(records(tmp_path)) == RECORDS
    assert all(path.stat().st_mtime_ns == kept[path] for path in kept.keys() - {damaged})
    assert not list(tmp_path.glob("records/*/.*"))


def test_another_evaluation_in_the_folder_starts_over(command, expected, tmp_path, capsys):
    evaluated([*command, "keep_records=true", "protocol.mask_threshold=0.4", "protocol.limit=2"], tmp_path)
    capsys.readouterr()
    assert figures(evaluated(command, tmp_path)) == expected
    said = " ".join(capsys.readouterr().out.split())
    assert "records/base: 2 records start over: protocol.mask_threshold was 0.4, now it is 0.5" in said
    assert not (tmp_path / "records").exists()


def test_two_processes_end_in_the_metrics_of_one(command, undisturbed, expected, tmp_path):
    """Each picture once, by one of them; the confusion matrices and all other figures are the same."""
    arguments = [*command, f"run_dir={tmp_path / 'run'}", "devices=2", "device=cpu", "keep_records=true"]
    done = run_forked(EVALUATE, arguments, tmp_path / "logs")
    assert done.returncode == 0, done.stderr[-3000:]
    assert figures(tmp_path / "run") == expected
    for model in {file.parent.name for file in records(undisturbed)} - {"kept"}:
        for fusion in FUSIONS:
            assert confusion(tmp_path / "run", model, fusion) == confusion(undisturbed, model, fusion)
            assert sum(confusion(undisturbed, model, fusion).values()) > 0
    assert len(records(tmp_path / "run")) == RECORDS
    assert done.stdout.count("wrote ") == 1
