"""fit on a tiny synthetic stream: bad steps change nothing, and a resumed run is the same run."""

from __future__ import annotations

import inspect
import itertools
import json
from dataclasses import replace

import pytest
import torch
from fitted_runs import equal
from micro_model import micro_base

from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.latest_radii import LatestRadii
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.training.loop import TrainingFailed, fit
from sam3_hyperet.training.options import TrainOptions
from sam3_hyperet.training.signals import Interrupted
from sam3_hyperet.training.state import read_state


@pytest.fixture(scope="module")
def base():
    return micro_base()


def broken(batch, value=float("nan")):
    return replace(batch, img_batch=torch.full_like(batch.img_batch, value))


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


def test_what_is_watched_is_computed_where_it_is_logged_alone(start, stream, monkeypatch):
    """In the first process, at logged steps; other steps keep no features, nor does validation."""
    computed, kept = [], set()
    monkeypatch.setattr(LatestRadii, "latest", lambda _: computed.append(1) or {})
    monkeypatch.setattr(LatestRadii, "histograms", lambda _: {})
    monkeypatch.setattr(LatestRadii, "_record", lambda *_: kept.add((len(run.seen), torch.is_grad_enabled())))
    run = start()
    run.fit(max_steps=4, log_every=3, tune=stream[:1], validate_every=1)
    assert len(computed) == 3
    assert kept == {(step, True) for step in (1, 3, 4)}
    other = start()
    other.is_first = False
    other.fit(max_steps=4, log_every=3)
    assert len(computed) == 3
    assert len(kept) == 3
    assert not list(other.folder.iterdir())


@pytest.mark.parametrize("stopped", [2, 4])
def test_a_run_that_is_to_stop_leaves_its_validation_to_the_one_that_goes_on(start, stream, stopped):
    """There may be two minutes left, and a validation may take as long."""
    options = {"max_steps": 4, "tune": stream[:2], "validate_every": 2, "save_every": 3}
    whole, first = start(), start()
    whole.fit(**options)
    asked = iter([*[False] * (stopped - 1 + (stopped - 1) // 2), True])  # behind each step and each validation
    with pytest.raises(Interrupted):
        first.fit(**options, interrupted=lambda: next(asked))
    assert [line["step"] for line in first.lines() if "tune/loss" in line] == [*range(0, stopped, 2)]
    for _ in range(2):  # the second one goes on from what the first one has saved
        second = start()
        second.folder = first.folder
        second.fit(**options, resume=first.folder / "state.pt")
        validated = [[line for line in run.lines() if "tune/loss" in line] for run in (whole, second)]
        for line in itertools.chain(*validated):
            del line["tune/seconds"]
        assert validated[0] == validated[1]
        assert [line["step"] for line in validated[0]] == [0, 2, 4]
        assert (second.result.best_step, second.result.best) == (whole.result.best_step, whole.result.best)
        assert equal(second.adapters(), whole.adapters())
        assert read_state(first.folder / "state.pt")["progress"]["best_step"] == whole.result.best_step


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_that_is_killed_in_a_validation_repeats_that_alone(start, stream, step, capsys):
    """Its state was due, and is saved before."""
    options = {"max_steps": 4, "tune": stream[:2], "validate_every": 2, "save_every": 2, "ema": 0.5}
    whole, first, second = start(), start(), start()
    whole.fit(**options)

    def killed(base):
        if first.seen[-1:] == [step - 1]:
            raise KeyboardInterrupt
        return {}

    first.score = killed
    with pytest.raises(KeyboardInterrupt):
        first.fit(**options)
    second.folder = first.folder
    second.fit(**options, resume=first.folder / "state.pt")
    assert second.seen == list(range(step, 4))
    assert f"goes on after step {step} of 4, with what was to follow it" in capsys.readouterr().out.replace("\n", " ")
    timing = {"train/seconds", "tune/seconds"}
    plain = [[{k: v for k, v in line.items() if k not in timing} for line in r.lines()] for r in (whole, second)]
    assert plain[0] == plain[1]
    assert equal(second.adapters(), whole.adapters())
    assert equal(second.saved[-1][1], whole.saved[-1][1])
    assert (second.result.best_step, second.result.best) == (whole.result.best_step, whole.result.best)


def test_a_state_is_saved_once_a_step_and_again_at_the_end(start, stream, monkeypatch):
    saved, new = [], []

    def note(path, model, optimizer, progress, generators, is_of_new_step):
        saved.append((progress["step"], progress["is_judged"]))
        new.append(is_of_new_step)

    monkeypatch.setattr("sam3_hyperet.training.loop.save_state", note)
    start().fit(max_steps=6, tune=stream[:1], validate_every=3, save_every=1)
    assert saved == [(1, True), (2, True), (3, False), (4, True), (5, True), (6, False), (6, True)]
    assert new == [True] * 6 + [False]  # so that the two that are kept are of two steps


def test_a_signal_within_a_validation_stops_the_run_behind_it(start, stream):
    run = start()
    asked = iter([False, True])
    with pytest.raises(Interrupted):
        run.fit(max_steps=4, tune=stream[:2], validate_every=1, interrupted=lambda: next(asked))
    assert [line["step"] for line in run.lines() if "tune/loss" in line] == [0, 1]
    assert run.seen == [0]


@pytest.mark.parametrize("stopped", [0, 2, 4])
def test_a_signal_ends_a_validation_which_the_run_that_goes_on_does_again(start, stream, stopped):
    """A job has two minutes after it; and before the first step, there is no state."""
    options = {"max_steps": 4, "validate_every": 2, "save_every": 3, "ema": 0.5}
    whole, first, second = start(), start(), start()
    whole.fit(**options, tune=stream[:3])
    signals, measured, scored = [], [], []

    class Tuning:
        def __iter__(self):
            for number, batch in enumerate(stream[:3]):
                if (number, len(first.seen)) == (1, stopped):
                    signals.append("SIGTERM")
                measured.append(number)
                yield batch

    first.stop, first.score = (lambda: bool(signals)), lambda base: scored.append(base) or {}
    with pytest.raises(Interrupted) as interrupted:
        first.fit(**options, tune=Tuning(), interrupted=lambda: bool(signals))
    assert interrupted.value.step == stopped
    assert len(scored) == stopped // 2
    assert measured == [*[0, 1, 2] * (stopped // 2), 0, 1]
    state = first.folder / "state.pt"
    assert state.is_file() == bool(stopped)
    if stopped:
        assert not read_state(state)["progress"]["is_judged"]
    second.folder = first.folder
    second.fit(**options, tune=stream[:3], resume=state if stopped else None)
    assert second.seen == list(range(stopped, 4))
    timing = {"train/seconds", "tune/seconds"}
    plain = [[{k: v for k, v in line.items() if k not in timing} for line in r.lines()] for r in (whole, second)]
    assert plain[0] == plain[1]
    assert equal(second.adapters(), whole.adapters())
    assert (second.result.best_step, second.result.best) == (whole.result.best_step, whole.result.best)
