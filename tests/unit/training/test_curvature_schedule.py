"""The curvature's course: what each schedule computes, how `dynamic` reacts, and that both survive an interruption."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import sam3_hyperet as hy
from sam3_hyperet.adapters.attention import HyperbolicGates
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.options import read_options
from sam3_hyperet.training.curvature_schedule import RadiusControl, radius_control
from sam3_hyperet.training.loop import fit
from sam3_hyperet.training.options import FitOptions, OptimizerOptions, RadiusOptions, TrainOptions
from sam3_hyperet.training.run_folder import RunFolder
from sam3_hyperet.training.validation import Validation

PROPERTY = settings(max_examples=50, deadline=None)


def small_model(geometry="lorentz", curvature=0.01, learn_curvature=False):
    """Two adjustments and an attention's gates."""
    options = {"geometry": geometry, "curvature": curvature, "learn_curvature": learn_curvature}
    gates = HyperbolicGates(2, curvature, learn_curvature, "euclidean" if geometry == "euclidean" else "lorentz")
    model = nn.ModuleList([hy.HyperET(4, **options), hy.HyperET(4, **options), gates])
    model.hyperet_config = hy.HyperETConfig(**options)
    return model


def curvatures(model):
    return [float(module.curvature()) for module in model]


def course(options, losses, curvature=0.01):
    """The curvature after each loss."""
    control = RadiusControl(small_model(curvature=curvature), options, len(losses))
    found = []
    for step, loss in enumerate(losses, start=1):
        control.update(step, loss)
        found.append(control.metrics["radius_control/curvature"])
    return found


def test_constant_is_no_control_at_all():
    assert radius_control(small_model(), RadiusOptions(), 10) is None
    assert radius_control(nn.Linear(2, 2), RadiusOptions(), 10) is None  # a model without adapters


@pytest.mark.parametrize("target", [0.5, 0.002])
def test_schedules_in_numbers(target):
    span = target - 0.01
    linear = course(RadiusOptions(schedule="linear", target=target), [1.0] * 8)
    assert linear == pytest.approx([0.01 + span * step / 8 for step in range(1, 9)])
    cosine = course(RadiusOptions(schedule="cosine", target=target), [1.0] * 8)
    assert cosine[3] == pytest.approx(0.01 + span / 2)
    assert cosine[1] == pytest.approx(0.01 + span * (1 - math.cos(math.pi / 4)) / 2)
    assert linear[-1] == pytest.approx(target)
    assert cosine[-1] == pytest.approx(target)


@pytest.mark.parametrize("geometry", ["mobius", "lorentz", "gyro"])
def test_every_adjustment_follows(geometry):
    model = small_model(geometry)
    control = RadiusControl(model, RadiusOptions(schedule="linear", target=0.03), 2)
    assert curvatures(model) == pytest.approx([0.01] * 3, rel=1e-4)
    control.update(1, 1.0)
    assert curvatures(model) == pytest.approx([0.02] * 3, rel=1e-4)
    assert control.metrics == {"radius_control/curvature": pytest.approx(0.02)}


PLAIN = {"schedule": "dynamic", "factor": 2.0, "patience": 3, "tolerance": 0.1, "smoothing": 0.0}


def test_while_the_loss_improves_nothing_moves():
    assert course(RadiusOptions(**PLAIN), [0.8**step for step in range(20)]) == [0.01] * 20


def test_a_plateau_moves_it_and_a_move_that_did_not_help_is_replaced_by_its_opposite():
    assert course(RadiusOptions(**PLAIN), [1.0] * 13) == pytest.approx(
        [0.01] * 3 + [0.02] * 3 + [0.005] * 3 + [0.02] * 3 + [0.005]
    )


def test_a_move_that_helped_is_repeated():
    losses = [1.0] * 4 + [0.8] * 4 + [0.6] * 4 + [0.6] * 3
    expected = [0.01] * 3 + [0.02] * 4 + [0.04] * 4 + [0.08] * 3 + [0.02]
    assert course(RadiusOptions(**PLAIN), losses) == pytest.approx(expected)


def test_less_than_the_tolerance_is_no_improvement():
    almost = course(RadiusOptions(**PLAIN), [1.0, 0.91, 0.91, 0.91])
    enough = course(RadiusOptions(**PLAIN), [1.0, 0.89, 0.89, 0.89])
    assert (almost[-1], enough[-1]) == (0.02, 0.01)


def test_bounds_turn_it_around():
    options = RadiusOptions(**PLAIN, minimum=0.004, maximum=0.03)
    falling = [0.8 ** (step // 4) for step in range(40)]  # each move helps once, then comes a plateau
    found = course(options, falling)
    assert found[:12] == pytest.approx([0.01] * 3 + [0.02] * 4 + [0.01] * 4 + [0.005])
    assert {round(c, 6) for c in found} == {0.005, 0.01, 0.02}


def test_the_loss_is_smoothed():
    control = RadiusControl(small_model(), RadiusOptions(schedule="dynamic", smoothing=0.75), 9)
    seen = []
    for step, loss in enumerate([4.0, 8.0, math.nan, math.inf, 0.0], start=1):
        control.update(step, loss)
        seen.append(control.metrics["radius_control/loss"])
    assert seen == [4.0, 5.0, 5.0, 5.0, 3.75]  # what is not finite is left out


LOSSES = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=60)


@given(LOSSES, st.floats(1.01, 10.0), st.integers(1, 4))
@PROPERTY
def test_it_stays_within_its_bounds(losses, factor, patience):
    options = RadiusOptions(schedule="dynamic", factor=factor, patience=patience, minimum=0.002, maximum=0.05)
    assert all(0.002 <= c <= 0.05 for c in course(options, losses))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "dynamic"])
@given(losses=LOSSES, cut=st.integers(0, 60))
@PROPERTY
def test_a_restored_control_goes_on_as_if_nothing_had_been(schedule, losses, cut):
    options = RadiusOptions(schedule=schedule, target=0.2, factor=1.3, patience=2)
    whole, first = (RadiusControl(small_model(), options, len(losses)) for _ in range(2))
    model = small_model()
    second = RadiusControl(model, options, len(losses))
    for step, loss in enumerate(losses, start=1):
        whole.update(step, loss)
        (first if step <= cut else second).update(step, loss)
        if step == cut:
            second.load_state_dict(first.state_dict())
            assert curvatures(model) == pytest.approx([first.metrics["radius_control/curvature"]] * 3, rel=1e-4)
    if len(losses) > cut:
        assert second.state_dict() == whole.state_dict()
        assert all(torch.equal(a.curvature.raw, model[0].curvature.raw) for a in model)


def test_a_state_without_a_control_is_refused():
    control = RadiusControl(small_model(), RadiusOptions(schedule="dynamic"), 2)
    with pytest.raises(CheckpointError, match=r"the saved state has no radius_control/curvature"):
        control.load_state_dict({"step": 2})


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({"learn_curvature": True}, {}, r"radius.schedule=dynamic and hyperet.learn_curvature=true both move"),
        ({"geometry": "euclidean"}, {}, r"no adjustment has a curvature; choose a scheme, and a geometry other than"),
        ({"curvature": 2.0}, {}, r"hyperet.curvature=2.0; radius.schedule=dynamic expects it from .*=0.0001 to .*=1.0"),
        (None, {"schedule": "linear", "target": 1.0}, r"radius.schedule=linear: no adjustment has a curvature"),
    ],
)
def test_a_model_without_a_curvature_to_move_is_refused(model, options, message):
    model = nn.Linear(2, 2) if model is None else small_model(**model)
    with pytest.raises(ConfigError, match=message):
        radius_control(model, RadiusOptions(**{"schedule": "dynamic", **options}), 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "wavy"}, r"radius.schedule='wavy' is unknown; expected one of constant, linear, cosine, dynamic"),
        ({"schedule": "linear"}, r"radius.target is missing; schedule linear needs"),
        ({"schedule": "cosine", "target": -1.0}, r"radius.target=-1.0; expected a curvature between 1e-08 and 100"),
        ({"factor": 1.0}, r"radius.factor=1.0; expected a number above 1"),
        ({"patience": 0}, r"radius.patience=0; expected an integer from 1"),
        ({"tolerance": 1.0}, r"radius.tolerance=1.0; expected a fraction"),
        ({"smoothing": -0.1}, r"radius.smoothing=-0.1; expected a fraction"),
        ({"minimum": 0.5, "maximum": 0.5}, r"radius.minimum=0.5; expected less than radius.maximum=0.5"),
        ({"speed": 1}, r"radius.speed is not an option; expected one of schedule, target"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        read_options(RadiusOptions, options, "radius")


LOSS = LossOptions(alignment=1.0, entailment=0.2, query="random", prune_probability=0.5)
RADIUS = {"schedule": "dynamic", "factor": 2.0, "patience": 1, "tolerance": 0.5}


@pytest.fixture(scope="module")
def stream(make_batch):
    left, right = (10, 10, 60, 60), (70, 40, 120, 110)
    return [
        make_batch([("red car", [left, right]), ("sky", [right])], seed=0),
        make_batch([("house", [right]), ("sky", [left, right])], [("small red car", [left])], seed=1),
    ]


class Killed(Exception):
    pass


def run(model, stream, folder, *, until=None, resume=None, radius=RADIUS, validate_every=3):
    """Six steps with the losses between queries and texts and a moving curvature; killed before step `until`."""
    hy.inject(model, hy.HyperETConfig(geometry="gyro", residual=0.5))
    hy.set_stage(model, 1)
    folder.mkdir(exist_ok=True)
    torch.manual_seed(5)

    def batches(step):
        for number in itertools.count(step):
            if number == until:
                raise Killed
            yield stream[number % len(stream)]

    fit(
        Fabric(accelerator="cpu", devices=1),
        model,
        GroundingLoss(model, LOSS),
        batches,
        Validation(lambda: iter(stream[:1])),
        FitOptions(
            train=TrainOptions(max_steps=6, batch_size=1, log_every=1, save_every=2, validate_every=validate_every),
            optim=OptimizerOptions(lr=3e-3, warmup=0),
            radius=RadiusOptions(**radius),
        ),
        RunFolder(folder, resume),
    )
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_is_the_uninterrupted_run(another, stream, tmp_path):
    whole = run(another(), stream, tmp_path / "whole")
    with pytest.raises(Killed):
        run(another(), stream, tmp_path / "cut", until=4)
    torch.rand(3)  # the state brings its own random numbers
    cut = run(another(), stream, tmp_path / "cut", resume=tmp_path / "cut" / "state.pt")
    for name in ("adapter_last", "adapter"):
        a, b = (load_file(folder / f"{name}.safetensors") for folder in (whole, cut))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    logged = [
        [{k: v for k, v in line.items() if not k.endswith("/seconds")} for line in lines(f)] for f in (whole, cut)
    ]
    assert logged[0] == logged[1]
    trained = [line for line in logged[0] if "train/loss" in line]
    assert all({"train/alignment_loss", "train/entailment_loss"} <= line.keys() for line in trained)
    assert any(key.endswith("curvature.raw") for key in a)  # it has moved, and is kept


def test_the_file_brings_the_curvature_of_its_step_back(another, stream, tmp_path):
    model = another()
    folder = run(model, stream, tmp_path / "run", radius={"schedule": "linear", "target": 0.07})
    loaded = hy.load_adapter(another(), folder / "adapter_last.safetensors")
    raw = [module.curvature for module in loaded.modules() if isinstance(module, hy.HyperET)]
    assert [float(c()) for c in raw] == pytest.approx([0.07] * 2, rel=1e-5)
    pairs = zip(adapter_parameters(model), adapter_parameters(loaded), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)


@pytest.fixture
def moved(model):
    """With curvatures and residuals that are not the configuration's."""
    hy.inject(model, hy.HyperETConfig(sites=["fpn", "attention"], residual=0.5))
    move(model, 0.07, 0.9)
    return model


def move(model, curvature, residual):
    for module in model.modules():
        if isinstance(module, hy.HyperET):
            module.alpha.fill_(residual)
        if isinstance(module, hy.HyperET | HyperbolicGates):
            module.curvature.set(curvature)


def constants(model):
    names = ("curvature.raw", "alpha")
    return {name: buffer.clone() for name, buffer in model.named_buffers() if name.endswith(names)}


def test_adapter_files_keep_what_was_moved_and_nothing_else(moved, another, tmp_path):
    assert len(constants(moved)) == 8  # two levels with two each, and four attentions
    hy.save_adapter(moved, tmp_path / "moved.safetensors")
    declared = dict(adapter_parameters(moved)).keys()
    assert load_file(tmp_path / "moved.safetensors").keys() == declared | constants(moved).keys()
    loaded = hy.load_adapter(another(), tmp_path / "moved.safetensors")
    assert all(torch.equal(buffer, constants(moved)[name]) for name, buffer in constants(loaded).items())

    fresh = hy.inject(another(), moved.hyperet_config)
    hy.save_adapter(fresh, tmp_path / "fresh.safetensors")
    assert load_file(tmp_path / "fresh.safetensors").keys() == declared
    hy.load_adapter(moved, tmp_path / "fresh.safetensors")  # a file without them means the configuration's values
    assert all(torch.equal(buffer, constants(fresh)[name]) for name, buffer in constants(moved).items())


def test_an_adapter_file_with_a_constant_that_does_not_fit_is_refused(moved, another, tmp_path):
    path = tmp_path / "moved.safetensors"
    hy.save_adapter(moved, path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("alpha"))
    save_file(tensors | {name: torch.ones(2)}, path, metadata)
    with pytest.raises(CheckpointError, match=rf"{name} has shape \(2,\), expected \(\)"):
        hy.load_adapter(another(), path)


def test_tuning_draws_nothing_from_training_and_the_same_each_time(another, stream, tmp_path):
    """Random queries and texts in both: the trained weights do not depend on how often it is tuned."""
    radius = {"schedule": "constant"}
    often, never = (run(another(), stream, tmp_path / str(n), radius=radius, validate_every=n) for n in (1, 0))
    a, b = (load_file(folder / "adapter_last.safetensors") for folder in (often, never))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
