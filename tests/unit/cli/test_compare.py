"""Two models side by side: which numbers are whose, and what is written."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

import sam3_hyperet as hy
from sam3_hyperet.cli.compare import compare, print_headline, versions
from sam3_hyperet.data.scenes import write_scenes
from sam3_hyperet.data.sources import DataOptions
from sam3_hyperet.evaluation.runner import Protocol


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 2, 2, 128, "val")
    return DataOptions(name="drawn", format="scenes", root=str(root), splits={"val": 2})


def run(model, data, folder, **options):
    protocol = Protocol(limit=1, examples=1)
    console = Console(file=io.StringIO(), width=200)
    return compare(model, data, protocol, folder, config_text="x: 1", extra={"extra": 3.0}, console=console, **options)


def scored(metrics, prefix):
    return {
        key.removeprefix(prefix): value
        for key, value in metrics.items()
        if key.startswith(f"{prefix}drawn/") and "speed" not in key
    }


def test_each_number_is_its_own_model_s(base, model, another, randomized, data, tmp_path):
    adapted = randomized(hy.inject(model, hy.HyperETConfig()))
    off = run(adapted, data, tmp_path / "off")
    alone = run(base, data, tmp_path / "alone")
    moved = randomized(hy.inject(another(), hy.HyperETConfig()), seed=8)
    against = run(adapted, data, tmp_path / "against", base=moved)
    own = run(moved, data, tmp_path / "own")

    assert scored(off, "base/") == scored(alone, "")
    assert scored(off, "") != scored(off, "base/")
    assert scored(against, "") == scored(off, "")
    assert scored(against, "base/") == scored(own, "")
    assert not scored(alone, "base/")
    assert all(site.enabled for _, site in adapted.named_modules() if getattr(site, "is_adapter", False))


def test_what_is_written(model, randomized, data, tmp_path):
    adapted = randomized(hy.inject(model, hy.HyperETConfig()))
    hy.save_adapter(adapted, tmp_path / "adapter.safetensors")
    metrics = run(adapted, data, tmp_path / "new", adapter=tmp_path / "adapter.safetensors")
    assert json.loads((tmp_path / "new" / "metrics.json").read_text(), parse_constant=pytest.fail) == metrics
    assert metrics["extra"] == 3
    report = hy.parameter_report(adapted)
    assert {key: metrics[f"params/{key}"] for key in ("added", "total", "added_ratio")} == {
        key: report[key] for key in ("added", "total", "added_ratio")
    }
    assert "params/trainable" not in metrics  # what trains is the training run's to say
    assert metrics["normalized_radius/fpn.0/mean"] != metrics["base/normalized_radius/fpn.0/mean"]
    html = (tmp_path / "new" / "report.html").read_text()
    for part in ("drawn, val split, 1 of 2 pictures", "SHA-256", "x: 1", "128 pixels, square"):
        assert part in html


def test_the_headline_table():
    file = io.StringIO()
    metrics = {"d/segm/AP": 0.5, "base/d/segm/AP": 0.25, "d/segm/AP/car": 0.9, "d/fused/mIoU": 0.1, "speed": 2.0}
    print_headline(Console(file=file, width=100), metrics)
    lines = [line for line in file.getvalue().splitlines() if "d/" in line]
    assert len(lines) == 2
    assert lines[0].split("│")[1:5] == [" d/segm/AP    ", " 0.2500 ", " 0.5000  ", " +0.2500    "]
    assert "–" in lines[1]


def test_versions_name_what_the_numbers_depend_on():
    found = versions()
    assert found["sam3_hyperet"] == hy.__version__
    assert {"python", "torch", "sam3", "pycocotools"} <= found.keys()
