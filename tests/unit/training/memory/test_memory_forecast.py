"""Forecasts of a step's memory beside what a real step takes, and what they depend on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.memory import measured_peak
from sam3_hyperet.modeling import build
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.training.memory import forecast
from sam3_hyperet.training.memory.forecast import Forecaster, ForecastError, StepKind, small_batch
from sam3_hyperet.training.options import StageOptions

SHALLOW = {"vit_depth": 2, "global_blocks": (1,), "text_layers": 1, "encoder_layers": 1, "decoder_layers": 1}
TINY = StepKind(ModelOptions("tiny"), HyperETConfig(), precision="32-true", objects=2, device="cpu")


@pytest.fixture
def shallow(monkeypatch):
    """The tiny model has half of its layers: a forecast takes as long as it has operators."""
    monkeypatch.setitem(build.ARCHITECTURES, "tiny", replace(build.ARCHITECTURES["tiny"], **SHALLOW))


@pytest.mark.parametrize(
    ("kind", "images", "prompts", "checkpointing"),
    [
        (replace(TINY, boxes=100), 1, 4, False),
        (replace(TINY, hyperet=HyperETConfig(scheme="P"), precision="bf16-mixed"), 2, 2, True),
    ],
    ids=["A, boxes", "P, two images, bf16, checkpointing"],
)
def test_the_forecast_is_what_a_real_step_takes(kind, images, prompts, checkpointing):
    found = Forecaster(kind).step(images, prompts, checkpoint_activations=checkpointing).passes
    measured = measured_peak(kind, images, prompts, checkpoint_activations=checkpointing)
    assert found == pytest.approx(measured, rel=0.05)


def test_a_box_is_one_token_of_every_prompt():
    """Its text has 32, and SAM 3 adds one for the geometry, with boxes or without."""
    model, tokens = build_model("tiny", checkpoint="random").eval(), []

    def note(encoder, inputs, options):
        tokens.append(len(options["prompt"]))

    with model.transformer.encoder.register_forward_pre_hook(note, with_kwargs=True):
        for boxes in (0, 1, 20):
            model(small_batch(1, 2, 1, 1, resolution(model), boxes))
    assert tokens == [33, 34, 53]


@pytest.mark.usefixtures("shallow")
def test_memory_grows_by_the_prompt():
    on_cuda = Forecaster(replace(TINY, precision="bf16-mixed", device="cuda"))  # which needs no card
    one, three, five = (on_cuda.step(1, prompts, is_split=True).peak for prompts in (1, 3, 5))
    assert five - three == pytest.approx(three - one, rel=0.03)
    assert on_cuda.interpolated(3, 5, checkpoint_activations=False) == pytest.approx(three, rel=0.01)


@pytest.mark.usefixtures("shallow")
def test_a_card_that_is_there_is_not_touched(monkeypatch):
    kind = replace(TINY, precision="bf16-mixed", device="cuda")
    without = Forecaster(kind).step(1, 1, checkpoint_activations=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_initialized", True)
    assert Forecaster(kind).step(1, 1, checkpoint_activations=True) == without


@pytest.mark.usefixtures("shallow")
def test_everything_that_trains_has_moments():
    kind = replace(TINY, hyperet=HyperETConfig(scheme="none"), stage=StageOptions(3), device="cuda")
    found = Forecaster(kind).step(1, 1)
    assert found.update == pytest.approx(5 * found.weights, rel=0.01)
    assert found.passes > 4 * found.weights
    assert found.peak == max(found.update, found.passes)
    more = Forecaster(replace(kind, copies=2)).step(1, 1)  # a moving average, and gradients on their way
    assert more.update - found.update == more.passes - found.passes == pytest.approx(2 * found.weights, rel=0.01)


def test_what_cannot_be_run_without_values_is_said(monkeypatch):
    def by_value(batch, device, side, name=""):
        return torch.empty(5, device=device.kind).nonzero()

    monkeypatch.setattr(forecast, "_enlarged", by_value)
    with pytest.raises(ForecastError, match=r"no forecast of the step's memory .*nonzero.* depends on values"):
        Forecaster(TINY).step(1, 1)
    assert torch.nonzero(torch.ones(2)).tolist() == [[0], [1]]  # the fake device is gone
