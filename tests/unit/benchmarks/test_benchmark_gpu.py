"""The GPU benchmark: its dry run on the CPU, what a failing section leaves behind, and its clock."""

from __future__ import annotations

import json
import time

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import inference, operators, training
from benchmarks.gpu.bench import Bench, difference, tf32
from benchmarks.memory import FORECASTS
from sam3_hyperet.errors import ConfigError


@pytest.fixture
def bench():
    return Bench(torch.device("cpu"), "tiny", repeats=1, ends=time.perf_counter() + 60, compiles=False)


def test_a_dry_run_fills_every_section(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "STAGE_1", (training.A, training.STAGE_1[3]))
    monkeypatch.setattr(training, "EVERYTHING", training.EVERYTHING[:1])
    monkeypatch.setattr(inference, "SCHEMES", {name: inference.SCHEMES[name] for name in ("A", "P", "A+B")})
    monkeypatch.setattr(inference, "PRECISIONS", ("fp32", "bf16"))
    for side, pixels in (("WIDTH", 64), ("HEIGHT", 48)):
        monkeypatch.setattr(inference, side, pixels)
    monkeypatch.setattr(operators, "STRUCTURES", ("dense",))
    results = gpu.run(tiny=True, compiled=False, repeats=1, folder=str(tmp_path))
    sections = results["sections"]
    assert list(sections) == list(gpu.SECTIONS)
    assert {name: section.get("error") for name, section in sections.items()} == dict.fromkeys(gpu.SECTIONS)
    assert json.loads((tmp_path / "gpu.json").read_text()) == results
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("# tiny on one ")
    assert all(f"## {name} " in text for name in gpu.SECTIONS)
    figures = {name: section["figures"] for name, section in sections.items()}
    assert figures["identity"]["A/fp32/difference"] == 0.0
    assert figures["merging"]["P/difference"] <= 1e-4 < figures["merging"]["P/effect"]
    assert figures["evaluation"]["tiny/fp32/mask_iou_min"] == 1.0
    assert 0 < figures["evaluation"]["tiny/bf16/score_difference_max"] < 0.1
    assert figures["steps"]["A, prompts=4, bf16, cached/over_A"] > 0
    assert figures["everything"]["everything, prompts=4, bf16/over_A"] > 0


def test_each_step_has_a_forecast(bench, monkeypatch):
    cases = [*training.STAGE_1, *training.EVERYTHING]
    forecasts = json.loads(FORECASTS.read_text())
    assert forecasts.keys() == {str(case) for case in cases}
    monkeypatch.setattr(bench, "peak_gib", lambda step: 8.0)
    figures = {}
    training._measure(bench, training.A, lambda: None, figures)
    assert figures[f"{training.A}/forecast_over_peak"] == forecasts[str(training.A)] / 8.0


def test_a_failing_section_is_recorded_and_the_others_go_on(monkeypatch, tmp_path):
    def fails(bench):
        raise RuntimeError("out of paper\nmore")

    sections = {"broken": (fails, 1.0), "whole": (lambda bench: {"x": float("nan"), "y": 1.5, "z": None}, 1.0)}
    monkeypatch.setattr(gpu, "SECTIONS", sections)
    results = gpu.run(tiny=True, folder=str(tmp_path))["sections"]
    assert results["broken"]["error"] == "RuntimeError: out of paper"
    assert any("in fails" in line for line in results["broken"]["traceback"])
    assert results["whole"]["figures"] == {"x": "nan", "y": 1.5}
    assert "failed: RuntimeError: out of paper" in (tmp_path / "gpu.md").read_text()


def test_only_the_sections_that_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "SECTIONS", {name: (lambda bench: {"x": 1.5}, 1.0) for name in ("one", "two", "three")})
    assert list(gpu.run(tiny=True, folder=str(tmp_path), sections=["three", "one"])["sections"]) == ["three", "one"]
    with pytest.raises(ConfigError, match=r"sections='thre' is unknown; .*did you mean three\?"):
        gpu.run(tiny=True, folder=str(tmp_path), sections=["thre"])


def test_items_without_time_are_named(bench):
    bench.begin(budget=60)
    assert list(bench.items("ab")) == ["a", "b"]
    bench.begin(budget=0)
    assert list(bench.items("ab")) == []
    assert bench.left_out == ["a", "b"]


def test_no_gpu_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device; tiny=true"):
        gpu.run()


def test_tf32_is_restored():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with tf32(True):
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_a_difference_that_is_not_finite_is_infinite():
    one = {"x": torch.tensor([1.0, 2.0])}
    assert difference(one, {"x": torch.tensor([1.0, 2.5])}) == 0.5
    assert difference(one, {"x": torch.tensor([1.0, float("nan")])}) == float("inf")
