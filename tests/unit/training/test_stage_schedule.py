"""A schedule of stages: frozen parameters never move, trained ones do, and nothing jumps at a boundary."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from lightning_fabric import Fabric
from micro_model import micro_base

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.training.loop import fit
from sam3_hyperet.training.options import KEY_LAYERS, FitOptions, OptimizerOptions, StageOptions, TrainOptions
from sam3_hyperet.training.run_folder import RunFolder
from sam3_hyperet.training.stages import Stages
from sam3_hyperet.training.step import KeptPrecision
from sam3_hyperet.training.validation import Validation


@pytest.fixture(scope="module")
def base():
    return micro_base()


@pytest.fixture(scope="module")
def stream(make_batch):
    return [make_batch([("car", [(20, 20, 80, 70)]), ("sky", [])], seed=seed) for seed in (0, 3)]


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


class Watched:
    """A run that notes the parameters after every step, by way of the batches it asks for."""

    def __init__(self, model, stream, folder):
        self.model, self.stream, self.folder = model, stream, folder
        self.before: list[dict[str, torch.Tensor]] = []
        folder.mkdir(exist_ok=True)

    def batches(self, step):
        for number in itertools.count(step):
            self.before.append(snapshot(self.model))
            yield self.stream[number % len(self.stream)]

    def fit(self, stages, tune=(), resume=None, **options):
        loss = GroundingLoss(self.model, LossOptions())
        result = fit(
            Fabric(accelerator="cpu", devices=1),
            self.model,
            loss,
            self.batches,
            Validation(lambda: iter(tune)),
            FitOptions(
                train=TrainOptions(batch_size=1, log_every=1, **options),
                optim=OptimizerOptions(warmup=1),
                stage=stages,
            ),
            RunFolder(self.folder, resume),
        )
        self.before.append(snapshot(self.model))
        return result

    def lines(self):
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def run(another, stream, tmp_path):
    numbers = itertools.count()
    return lambda: Watched(hy.inject(another(), hy.HyperETConfig()), stream, tmp_path / str(next(numbers)))


@pytest.fixture(scope="module")
def whole(base, stream, copy_of, tmp_path_factory):
    """A run through all three stages, which wrote its state after the last step."""
    one = Watched(hy.inject(copy_of(base), hy.HyperETConfig()), stream, tmp_path_factory.mktemp("whole"))
    one.fit(SCHEDULE, max_steps=9, save_every=9)
    return one


SCHEDULE = StageOptions(boundaries=(3, 6))


def test_what_is_frozen_never_moves_and_what_trains_does(whole):
    one = whole
    adapters = {name for name, _ in adapter_parameters(one.model)}
    key = {n for n, _ in one.model.named_parameters() if n.startswith(tuple(k.replace("\\", "") for k in KEY_LAYERS))}
    assert moved(one.before[0], one.before[3]) == adapters
    in_stage_2 = moved(one.before[3], one.before[6])
    assert adapters < in_stage_2 <= adapters | key
    in_stage_3 = moved(one.before[6], one.before[9])
    assert in_stage_3 > in_stage_2
    assert "backbone.vision_backbone.trunk.blocks.0.attn.qkv.weight" in in_stage_3 - in_stage_2
    lines = one.lines()
    assert [line["train/stage"] for line in lines if "train/stage" in line] == [2, 3]
    logged = {line["step"]: line for line in lines if "train/loss" in line}
    assert "train/lr/key_layers" not in logged[3]
    assert logged[4]["train/gradient_norm/key_layers"] > 0
    assert logged[7]["train/lr/trunk.1"] < logged[7]["train/lr/trunk.0"]


def test_the_tuning_loss_does_not_jump_at_a_boundary(another, stream):
    model = hy.inject(another(), hy.HyperETConfig())
    loss = GroundingLoss(model, LossOptions())
    fabric = Fabric(accelerator="cpu", devices=1)
    stages = Stages(fabric, model, loss, SCHEDULE, OptimizerOptions(warmup=0), 9)
    said = [str(stages.begin())]
    expected = None
    for step in range(1, 8):
        said += [str(report) for report in [stages.advance(step, None)] if report]
        with torch.no_grad():
            model.training = True
            value = stages.module(KeptPrecision(stream[0]))[TOTAL]
        assert float(value) == pytest.approx(expected or float(value), rel=1e-6)
        expected = float(value)
    assert stages.number == 3
    assert [text.splitlines()[0][:7] for text in said] == ["stage 1", "stage 2", "stage 3"]
    parts = [[line.split(":")[0].strip() for line in text.splitlines()[1:]] for text in said]
    assert parts[:2] == [["adapters"], ["adapters", "key_layers"]]
    assert sorted(parts[2]) == ["adapters", "key_layers", "rest", "text", "trunk", "vision"]
    assert "  adapters: 2,048 parameters, learning rate 0.003, weight decay 0" in said[0].splitlines()


def test_state_of_the_optimizer_goes_on_over_a_boundary(whole):
    state = torch.load(whole.folder / "state.pt", weights_only=True)
    groups, moments = state["optimizer"]["param_groups"], state["optimizer"]["state"]
    steps = {g["name"]: {int(moments[i]["step"]) for i in g["params"] if i in moments} for g in groups}
    assert (steps["adapters"], steps["key_layers"], steps["rest"]) == ({9}, {6}, {3})
    assert {group["name"]: group["start"] for group in groups}["trunk.0"] == 6


@pytest.mark.parametrize("at", [3, 5, 8])
def test_a_run_resumed_in_any_stage_is_the_same_run(run, whole, at):
    first = run()
    batches = first.batches
    first.batches = lambda step: itertools.islice(batches(step), at)
    with pytest.raises(StopIteration):
        first.fit(SCHEDULE, max_steps=9, save_every=at)
    second = run()
    second.folder = first.folder
    second.fit(SCHEDULE, max_steps=9, resume=first.folder / "state.pt")
    assert len(second.before) == 9 - at + 1
    assert not moved(second.before[-1], whole.before[-1])


def test_the_next_stage_begins_on_a_plateau(run, stream):
    one = run()
    one.model.transformer.decoder.requires_grad_(False)
    result = one.fit(StageOptions(plateau=1), tune=stream[:1], validate_every=1, max_steps=12)
    lines = one.lines()
    tuned = {line["step"]: line["tune/loss_matched"] for line in lines if "tune/loss_matched" in line}
    boundaries = [line["step"] for line in lines if "train/stage" in line]
    best, expected = float("inf"), []
    for step, loss in tuned.items():
        if loss >= best and len(expected) < 2 and step < 12:
            expected.append(step)
            best = float("inf")
        else:
            best = min(best, loss)
    assert boundaries == expected
    assert result.step == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 4}, r"stage\.number=4; expected 1, 2 or 3"),
        ({"plateau": -1}, r"stage\.plateau=-1; expected an integer from 0"),
        ({"plateau": 2, "boundaries": (0.5,)}, r"both set when the next stage begins"),
        ({"number": 2, "boundaries": (1, 2)}, r"from stage 2 there are only 1 more"),
        ({"number": 3, "boundaries": (1,)}, r"from stage 3 there are only 0 more"),
    ],
)
def test_impossible_schedules(options, message):
    with pytest.raises(ConfigError, match=message):
        StageOptions(**options)


@pytest.mark.parametrize("boundaries", [(5, 3), (3, 3), (0.5, 10), (20,), (2.5,), (-1,), (0,)])
def test_boundaries_that_do_not_rise_within_the_run(boundaries):
    with pytest.raises(ConfigError, match=r"expected rising steps below train\.max_steps=10"):
        StageOptions(boundaries=boundaries).steps(10)


def test_boundaries_as_shares_of_the_run():
    assert StageOptions(boundaries=(0.5, 0.8)).steps(560) == [280, 448]
    assert StageOptions(boundaries=(0.5, 9)).steps(10) == [5, 9]


def test_a_plateau_has_nowhere_to_go_from_stage_3():
    with pytest.raises(ConfigError, match="stage 3 is the last"):
        StageOptions(3, plateau=1)


def test_a_plateau_needs_a_loss_that_is_measured():
    train = {"max_steps": 20, "batch_size": 1}
    FitOptions(train=TrainOptions(**train, validate_every=3), stage=StageOptions(plateau=1))
    with pytest.raises(ConfigError, match=r"stage.plateau=1 waits for losses .*, which train.validate_every=0"):
        FitOptions(train=TrainOptions(**train), stage=StageOptions(plateau=1))
