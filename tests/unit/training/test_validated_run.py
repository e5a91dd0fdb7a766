"""Runs of `fit` with validation: the step that a rule keeps, the end by patience, the moving average."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch
from fitted_runs import equal
from micro_model import micro_base
from short_of_memory import begun

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.training import validation
from sam3_hyperet.training.step import Passes


@pytest.fixture(scope="module")
def base():
    return micro_base()


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


def test_the_base_is_without_the_adapters_that_a_run_begins_with(start, stream, randomized):
    plain, warm = start(), start()
    randomized(warm.model)
    found = [run.fit(max_steps=1, tune=stream[:1], validate_every=1, lr=1e-9).base for run in (plain, warm)]
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert warm.result.best["loss"] != pytest.approx(found[1]["loss"], rel=1e-3)


def test_patience_ends_a_run_as_its_last_step_would(start, stream, capsys):
    run = start()
    run.score = Scored(0.0, 0.3, 0.2, 0.1)
    options = {"max_steps": 9, "tune": stream[:1], "validate_every": 1, "best": "segm/AP", "patience": 2}
    result = run.fit(save_every=9, **options)
    assert (result.step, result.best_step, result.stopped) == (3, 1, True)
    assert result.seconds > result.validation_seconds > 0
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


@pytest.mark.parametrize("prompts", [0, 1])
def test_a_process_moves_and_computes_its_share_alone(another, stream, monkeypatch, prompts):
    """By the counts of all batches of a step, so that the terms are those of one process."""
    moved, gathered = [], []
    monkeypatch.setattr(validation, "move_data_to_device", lambda batch, device: moved.append(batch) or batch)
    monkeypatch.setattr(validation, "from_all", lambda fabric, action: [gathered.append(action()) or gathered[-1]])
    stages = begun(another())
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        process = SimpleNamespace(
            global_rank=rank, world_size=world, device=torch.device("cpu"), autocast=contextlib.nullcontext
        )
        validation.validation_losses(process, stages, iter(stream[:3]), Passes(prompts), together=2)
    whole, first, second = gathered
    assert sorted(first + second, key=lambda one: one[0]) == whole
    assert [number for number, _ in second] == [1]
    assert [id(batch) for batch in moved] == [id(stream[i]) for i in (0, 1, 2, 0, 2, 1)]
