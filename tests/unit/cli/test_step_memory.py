"""What `train.memory=auto` makes of a run's options, and the line that says so."""

from __future__ import annotations

import pytest
from lightning_fabric import Fabric
from omegaconf import OmegaConf

from sam3_hyperet.cli import step_memory
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.run_options import read_run
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.training.memory.forecast import ForecastError


class Forecasts:
    """1 GiB and .5 for each prompt in a pass."""

    def __init__(self, kind):
        self.kind = kind

    def step(self, images, prompts, **_):
        return type("Step", (), {"peak": round((1 + images * prompts / 2) * 2**30)})

    def interpolated(self, prompts, most, **_):
        return self.step(1, prompts).peak


class NoForecast(Forecasts):
    def step(self, images, prompts, **_):
        raise ForecastError("no forecast of the step's memory (an operator)")


@pytest.fixture
def resolved(monkeypatch):
    """A function from overrides to `prompts_at_once`, `checkpoint_activations` and what was said."""

    def resolve(*overrides, forecaster=Forecasts):
        monkeypatch.setattr(step_memory, "Forecaster", forecaster)
        config = parse_command("train", ["data.positives=3", "data.negatives=2", *overrides])[1]
        said = []
        fabric = Fabric(accelerator="cpu", devices=1)
        options = step_memory.with_memory(read_run(OmegaConf.to_container(config)), fabric, said.append)
        train = options.train
        return (train.memory, train.prompts_at_once, train.checkpoint_activations), " ".join(said)

    return resolve


def test_off_is_the_default_on_the_cpu(resolved):
    assert resolved() == (("off", None, None), "")
    assert resolved("train.memory=off", "train.prompts_at_once=2") == (("off", 2, None), "")
    said = resolved("train.memory_gb=5")[1]
    assert said == "warning: train.memory_gb=5 changes nothing; expected train.memory=auto with it"


def test_auto_chooses_what_is_not_set_and_says_it(resolved):
    (*chosen,), said = resolved("train.memory=auto", "train.memory_gb=5")
    assert chosen == ["auto", 5, False]
    assert said == (
        "train.memory=auto: train.prompts_at_once=5 train.checkpoint_activations=false: "
        "3.5 GiB by forecast instead of 11.0; 4.0 of 4.7 are usable"
    )
    assert resolved("train.memory=auto", "train.memory_gb=5", "train.prompts_at_once=2")[0] == ("auto", 2, False)
    both = "train.prompts_at_once=0", "train.checkpoint_activations=true"
    assert resolved("train.memory=auto", *both) == (("auto", 0, True), "")


def test_auto_keeps_batches_whole_where_the_loss_compares_their_prompts(resolved):
    overrides = ["train.memory=auto", "train.memory_gb=5", "loss.alignment=1"]
    chosen, said = resolved(*overrides)
    assert chosen == ("auto", 0, False)
    assert said.endswith("4.0 of 4.7 are usable; it may not fit")
    assert resolved(*overrides, "train.prompts_at_once=2")[0] == ("auto", 2, False)
    with pytest.raises(ConfigError, match=r"prompts_at_once=1, but loss\.alignment=1 compares the prompts of a pass"):
        resolved(*overrides, "train.prompts_at_once=1")


def test_without_a_forecast_the_run_goes_on(resolved):
    chosen, said = resolved("train.memory=auto", forecaster=NoForecast)
    assert chosen == ("auto", 0, False)
    assert said.startswith("train.memory=auto: no forecast of the step's memory (an operator); goes on")


@pytest.mark.parametrize(
    ("overrides", "copies"),
    [
        ([], 0),
        (["train.nodes=2"], 1),
        (["train.ema=0.99", "train.devices=2"], 2),
        (["train.strategy=fsdp", "train.devices=2", "stage=3", "scheme=none"], 0),
    ],
)
def test_a_moving_average_and_gradients_on_their_way_take_memory(overrides, copies):
    config = parse_command("train", overrides)[1]
    assert step_memory.step_kind(read_run(OmegaConf.to_container(config)), "cuda").copies == copies


def test_a_box_of_any_set_is_counted():
    def boxes(*overrides):
        options = read_run(OmegaConf.to_container(parse_command("train", list(overrides))[1]))
        return step_memory.step_kind(options, "cuda").boxes

    assert boxes() == 0
    assert boxes("data.exemplars=0.3") == 1
    assert boxes("more_data.coco=coco", "more_data.coco.exemplars=0.3") == 1
