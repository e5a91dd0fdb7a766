"""fit on a tiny synthetic stream: the loss falls, bad steps change nothing, and a resumed run is the same run."""

from __future__ import annotations

import inspect
import itertools
import json
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric

import sam3_hyperet as hy
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.losses.grounding import GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.modeling.probe import RadiusProbe
from sam3_hyperet.training.loop import TrainingFailed, fit
from sam3_hyperet.training.options import FitOptions, LoggerOptions, OptimizerOptions, TrainOptions
from sam3_hyperet.training.run_folder import RunFolder
from sam3_hyperet.training.validation import Validation

CONFIG = hy.HyperETConfig(geometry="gyro", learn_curvature=True)


@pytest.fixture(scope="module")
def stream(make_batch):
    """Four batches: two prompts on each of two kinds of picture."""
    left, right = (10, 10, 60, 60), (70, 40, 120, 110)
    return [
        make_batch([("car", [left]), ("sky", [])], seed=0),
        make_batch([("car", []), ("sky", [right])], seed=1),
        make_batch([("car", [left, right]), ("sky", [right])], seed=2),
        make_batch([("car", [right]), ("sky", [left])], seed=3),
    ]


class Second(Fabric):
    """Fabric as a process sees it that is not the first."""

    is_global_zero = False


class Saved(RunFolder):
    """A folder whose run notes what would be saved."""

    def __init__(self, path, resume, run):
        super().__init__(path, resume)
        object.__setattr__(self, "run", run)

    def save(self, model, which):
        self.run.saved.append((which, self.run.adapters()))


class Run:
    """One run: a model in stage 1, its stream of batches, and what `fit` made of them."""

    def __init__(self, model, stream, folder):
        self.model = hy.inject(model, CONFIG)
        hy.set_stage(self.model, 1)
        self.stream, self.folder, self.saved = stream, folder, []
        self.seen: list[int] = []
        self.is_first, self.score = True, None
        folder.mkdir(exist_ok=True)

    def batches(self, step):
        for number in itertools.count(step):
            self.seen.append(number)
            yield self.stream[number % len(self.stream)]

    def adapters(self):
        return {name: p.detach().clone() for name, p in adapter_parameters(self.model)}

    def fit(self, *, lr=3e-3, precision="32-true", resume=None, tune=(), warmup=0, tensorboard=False, **options):
        loss = GroundingLoss(self.model, LossOptions())
        fabric = (Fabric if self.is_first else Second)(accelerator="cpu", devices=1, precision=precision)
        self.result = fit(
            fabric,
            self.model,
            loss,
            self.batches,
            Validation(lambda: iter(tune), self.score),
            FitOptions(
                train=TrainOptions(**{"batch_size": 1, "precision": precision, "log_every": 1, **options}),
                optim=OptimizerOptions(lr=lr, warmup=warmup),
                logger=LoggerOptions(tensorboard=tensorboard),
            ),
            Saved(self.folder, resume, self),
        )
        return self.result

    def lines(self):
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def start(another, stream, tmp_path):
    """A function that makes a run, on another stream where one is given."""
    numbers = itertools.count()
    return lambda batches=stream: Run(another(), batches, tmp_path / f"run{next(numbers)}")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def broken(batch, value=float("nan")):
    return replace(batch, img_batch=torch.full_like(batch.img_batch, value))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_loss_falls_and_the_base_stays(start, stream, precision):
    run = start()
    before, adapters = base_fingerprint(run.model), run.adapters()
    result = run.fit(max_steps=16, precision=precision, lr=1e-2)
    losses = [line["train/loss"] for line in run.lines() if "train/loss" in line]
    assert len(losses) == 16
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    assert base_fingerprint(run.model) == before
    assert not [name for name, p in run.adapters().items() if torch.equal(p, adapters[name])]
    assert {p.dtype for p in run.adapters().values()} == {torch.float32}
    assert (result.step, result.skipped_steps) == (16, 0)
    assert not any(module.training for module in run.model.modules())


def test_what_is_logged(start, stream):
    run = start()
    run.fit(max_steps=4, tune=stream[:2], validate_every=2, warmup=2, tensorboard=True)
    text = (run.folder / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    steps = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "tune/loss" in line] == [0, 2, 4]
    expected = {"train/loss", "train/loss_mask", "train/presence_loss", "train/lr", "train/gradient_norm"}
    assert all(expected | {"train/skipped_steps", "train/seconds"} <= line.keys() for line in steps)
    assert all(isinstance(value, float | int) for line in lines for value in line.values())
    assert all(a["train/seconds"] < b["train/seconds"] for a, b in itertools.pairwise(steps))
    assert list((run.folder / "tensorboard").glob("events.*"))


def test_best_and_last_are_saved(start, stream):
    run = start()
    result = run.fit(max_steps=6, tune=stream, validate_every=2)
    tune = {line["step"]: line["tune/loss_matched"] for line in run.lines() if "tune/loss_matched" in line}
    assert tune.keys() == {0, 2, 4, 6}
    assert result.base["loss"] == tune.pop(0)
    assert result.best_step == min(tune, key=tune.get)
    assert result.best == {"loss": min(tune.values())}
    assert [which for which, _ in run.saved][-1] == "last"
    assert equal(run.saved[-1][1], run.adapters())
    falling = sum(value < min([v for s, v in tune.items() if s < step], default=1e9) for step, value in tune.items())
    assert [which for which, _ in run.saved].count("best") == falling


class Scored:
    """A score of a run that gives these values of a metric in turn; the first is the base's."""

    def __init__(self, *values):
        self.values, self.seen = list(values), []

    def __call__(self, base):
        self.seen.append(base)
        return {"segm/AP": self.values[len(self.seen) - 1], "mIoU": 0.5}


def test_the_best_step_is_that_of_a_rule(start, stream, capsys):
    run = start()
    run.score = score = Scored(0.5, 0.2, 0.4, 0.3)
    best = "max segm/AP where segm/AP >= base-0.05 and loss <= 1e9"
    result = run.fit(max_steps=6, tune=stream[:1], validate_every=2, best=best)
    assert (result.best_step, result.best["segm/AP"], result.base["segm/AP"]) == (4, 0.4, 0.5)
    assert [which for which, _ in run.saved] == ["best", "best", "last"]
    assert [bool(base) for base in score.seen] == [False, True, True, True]
    assert [line["tune/segm/AP"] for line in run.lines() if "tune/mIoU" in line] == score.values
    said = capsys.readouterr().out
    assert "validation before training: loss" in said
    assert "segm/AP 0.4 (base 0.5)  (best step so far: 4; " in said
    assert (
        "no step fulfils segm/AP >= base-0.05 and loss <= 1e+09; kept is the one nearest to it, 4 (segm/AP 0.4" in said
    )
    assert "step 5 of 6  loss" in said
    assert f"loss {run.lines()[1]['train/loss_matched']:.3g}  box" in said  # not the sum of all terms


def test_patience_ends_a_run_as_its_last_step_would(start, stream, capsys):
    run = start()
    run.score = Scored(0.0, 0.3, 0.2, 0.1)
    options = {"max_steps": 9, "tune": stream[:1], "validate_every": 1, "best": "segm/AP", "patience": 2}
    result = run.fit(save_every=9, **options)
    assert (result.step, result.best_step, result.stopped) == (3, 1, True)
    assert [which for which, _ in run.saved] == ["best", "last"]
    said = capsys.readouterr().out
    assert (
        "ended after step 3 of 9: 2 validations in a row found nothing better than step 1, which is kept; the" in said
    )

    again = start()
    again.folder, again.score = run.folder, Scored()
    result = again.fit(save_every=9, resume=run.folder / "state.pt", **options)
    assert (result.step, again.seen, again.score.seen) == (3, [], [])
    assert "training of this run ended after step 3" in capsys.readouterr().out
    assert equal(again.saved[-1][1], run.saved[-1][1])


def test_the_moving_average_is_what_is_validated_and_saved(start, stream):
    run, other = start(), start()
    seen = []
    run.score = lambda base: seen.append(run.adapters()) or {"segm/AP": float(len(seen))}
    run.fit(max_steps=4, tune=stream[:1], validate_every=2, best="segm/AP", ema=0.9, save_every=2)
    assert equal(run.saved[0][1], seen[1])
    assert equal(run.saved[-1][1], seen[2])
    assert not equal(run.adapters(), seen[2])  # the run itself goes on with its own parameters
    other.fit(max_steps=4, ema=0.9)
    assert equal(other.adapters(), run.adapters())
    assert equal(other.saved[-1][1], seen[2])
    state = torch.load(run.folder / "state.pt", weights_only=True)
    assert equal(state["progress"]["average"], seen[2])
    assert equal(state["trained"], run.adapters())


def test_validation_needs_images(start):
    with pytest.raises(
        ConfigError, match=r"validate_every is set, but there is no tuning image; expected data.tune_im"
    ):
        start().fit(max_steps=2, validate_every=1)


def test_without_tuning_the_last_is_the_best(start):
    run = start()
    result = run.fit(max_steps=2)
    assert [which for which, _ in run.saved] == ["last", "best"]
    assert result.best_step == 2
    assert equal(run.saved[0][1], run.saved[1][1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_steps_are_skipped_and_counted_and_change_nothing(start, stream, value):
    good = stream[0]
    run = start([broken(good, value), good, broken(good, value), broken(good, value), good])
    seen = []

    original = run.batches

    def watched(step):
        for batch in original(step):
            seen.append(run.adapters())
            yield batch

    run.batches = watched
    result = run.fit(max_steps=5, max_bad_steps=3)
    seen.append(run.adapters())
    assert (result.step, result.skipped_steps) == (5, 3)
    changed = [not equal(a, b) for a, b in itertools.pairwise(seen)][:5]
    assert changed == [False, True, False, False, True]
    assert [line["train/skipped_steps"] for line in run.lines()] == [1, 1, 2, 3, 3]
    assert all(p.isfinite().all() for p in run.adapters().values())


def test_a_bad_gradient_alone_is_skipped_too(start, stream):
    run = start()
    before = run.adapters()
    parameter = next(p for _, p in adapter_parameters(run.model))
    parameter.register_hook(lambda gradient: gradient * float("nan"))
    result = run.fit(max_steps=3, max_bad_steps=4)
    assert result.skipped_steps == 3
    assert equal(run.adapters(), before)


def test_the_run_ends_after_so_many_bad_steps_in_a_row(start, stream):
    good, bad = stream[0], broken(stream[0])
    run = start([bad, good, bad, bad, good, bad, bad, bad, good])
    with pytest.raises(TrainingFailed, match=r"not finite for 3 steps in a row, up to step 8; try a lower optim.lr"):
        run.fit(max_steps=20, max_bad_steps=3)
    assert not any(module.training for module in run.model.modules())
    assert "last" not in [which for which, _ in run.saved]
    assert all(p.isfinite().all() for p in run.adapters().values())


def test_metrics_of_a_bad_step_are_still_json(start, stream):
    run = start([broken(stream[0]), stream[0]])
    run.fit(max_steps=2)
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda token: pytest.fail(f"{token} is no JSON"))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_resumed_run_is_the_uninterrupted_run(start, stream, precision):
    whole = start()
    whole.fit(max_steps=6, warmup=2, tune=stream[:2], validate_every=3, precision=precision, ema=0.5)

    class Killed(Exception):
        pass

    first = start()
    original = first.batches

    def until_5(step):
        for number, batch in enumerate(original(step), start=step):
            if number == 5:
                raise Killed
            yield batch

    first.batches = until_5
    options = {"max_steps": 6, "warmup": 2, "tune": stream[:2], "validate_every": 3, "save_every": 4, "ema": 0.5}
    with pytest.raises(Killed):
        first.fit(precision=precision, **options)
    assert (first.folder / "state.pt").is_file()

    second = start()
    second.folder = first.folder
    torch.rand(3)  # the state brings its own random numbers
    result = second.fit(precision=precision, resume=first.folder / "state.pt", **options)
    assert second.seen[0] == 4
    assert result.step == 6
    assert (result.best_step, result.best) == (whole.result.best_step, whole.result.best)
    assert equal(second.adapters(), whole.adapters())
    assert equal(second.saved[-1][1], whole.saved[-1][1])
    timing = {"train/seconds", "tune/seconds"}
    plain = [[{k: v for k, v in line.items() if k not in timing} for line in r.lines()] for r in (whole, second)]
    assert plain[0] == plain[1]
    assert result.seconds > first.lines()[5]["train/seconds"]


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_an_unreadable_state_is_refused(start, content):
    run = start()
    path = run.folder / "state.pt"
    if content is None:
        run.fit(max_steps=1, save_every=1)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"state.pt: (not a readable training state|its checksum is wrong)"):
        run.fit(max_steps=2, resume=path)


def test_a_finished_run_resumed_does_nothing_more(start, stream):
    run = start()
    run.fit(max_steps=2, save_every=2)
    again = start()
    again.folder = run.folder
    result = again.fit(max_steps=2, resume=run.folder / "state.pt")
    assert result.step == 2
    assert equal(again.adapters(), run.adapters())


@pytest.mark.parametrize("name", ["max_steps", "batch_size", "accumulate", "log_every", "max_bad_steps", "devices"])
def test_impossible_options_are_refused(name):
    with pytest.raises(ConfigError, match=rf"train.{name}=0; expected an integer from 1"):
        TrainOptions(**{"max_steps": 1, "batch_size": 1, name: 0})


def test_fit_takes_few_arguments():
    assert len(inspect.signature(fit).parameters) <= 8


def test_what_is_watched_is_computed_where_it_is_logged_alone(start, monkeypatch):
    """In the first process, at logged steps."""
    computed = []
    monkeypatch.setattr(RadiusProbe, "latest", lambda _: computed.append(1) or {})
    run = start()
    run.fit(max_steps=4, log_every=3)
    assert len(computed) == 3  # steps 1, 3 and the last
    other = start()
    other.is_first = False
    other.fit(max_steps=4, log_every=3)
    assert len(computed) == 3
    assert not list(other.folder.iterdir())
