"""What TensorBoard and Weights & Biases are given; the latter is a stand-in with the calls that are made of it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.training.options import LoggerOptions
from sam3_hyperet.training.run_log import RunLog

COUNTS = torch.tensor([1, 0, 3, 4])


class StandIn:
    """Of the module wandb; `calls` is what it was asked for."""

    def __init__(self):
        self.calls = []
        self.run = SimpleNamespace(
            define_metric=lambda *names, **options: self.calls.append(("define_metric", names, options)),
            log=lambda values: self.calls.append(("log", values)),
            finish=lambda: self.calls.append(("finish",)),
        )

    def init(self, **options):
        self.calls.append(("init", options))
        return self.run

    def Histogram(self, np_histogram):
        return [part.tolist() for part in np_histogram]


@pytest.fixture
def wandb(monkeypatch):
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def log(folder, steps, options, start=0):
    one = RunLog(folder, 10, start=start, options=options)
    for step in steps:
        one.write(step, {"loss": step / 4, "radius/a": COUNTS})
    one.close()


def test_figures_and_histograms_in_tensorboard(tmp_path):
    log(tmp_path, (1, 2, 3), LoggerOptions())
    log(tmp_path, (3, 4), LoggerOptions(), start=2)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"histograms": 0, "scalars": 0}).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(n, n / 4) for n in (1, 2, 3, 4)]
    histograms = events.Histograms("radius/a")
    assert [event.step for event in histograms] == [1, 2, 3, 4]
    histogram = histograms[0].histogram_value
    assert (histogram.num, histogram.min, histogram.max) == (8, 0.0, 1.0)
    assert histogram.sum == pytest.approx(0.125 + 3 * 0.625 + 4 * 0.875)
    assert histogram.sum_squares == pytest.approx(0.125**2 + 3 * 0.625**2 + 4 * 0.875**2)
    shown = dict(zip(histogram.bucket_limit, histogram.bucket, strict=True))
    assert {limit: count for limit, count in shown.items() if count} == {0.25: 1.0, 0.75: 3.0, 1.0: 4.0}


def test_figures_and_histograms_in_wandb(tmp_path, wandb):
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    options = LoggerOptions(tensorboard=False, wandb="project")
    log(tmp_path, (1, 2), options)
    (_, asked), axis, *lines, end = wandb.calls
    assert asked["project"] == "project"
    assert asked["config"] == {"seed": 3}
    assert asked["dir"] == str(tmp_path)
    assert axis == ("define_metric", ("*",), {"step_metric": "step"})
    edges = np.linspace(0, 1, 5).tolist()
    assert lines == [("log", {"step": n, "loss": n / 4, "radius/a": [COUNTS.tolist(), edges]}) for n in (1, 2)]
    assert end == ("finish",)
    assert not (tmp_path / "tensorboard").exists()


def test_a_resumed_run_goes_on_in_the_same_one_and_another_does_not(tmp_path, wandb):
    for start in (0, 2, 0):
        log(tmp_path, (), LoggerOptions(tensorboard=False, wandb="project"), start=start)
    asked = [call[1] for call in wandb.calls if call[0] == "init"]
    assert {options["resume"] for options in asked} == {"allow"}
    first, resumed, again = (options["id"] for options in asked)
    assert first == resumed != again


def test_wandb_must_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert LoggerOptions().wandb is None
    with pytest.raises(ConfigError, match=r"logger.wandb=project: .*expected .* pip install sam3_hyperet\[wandb\]"):
        LoggerOptions(wandb="project")
