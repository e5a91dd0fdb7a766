"""Plans of studies: what a file may say, which runs and trials follow, and what identifies them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sam3_hyperet.ablation.plan import read_plan
from sam3_hyperet.ablation.rows import RUNS, TRIALS, cell
from sam3_hyperet.ablation.runs import (
    choice_lines,
    choices_of,
    expected_seconds,
    identity_of,
    missing,
    runs_of,
    trials_of,
    with_options,
)
from sam3_hyperet.errors import ConfigError

PLAN = {
    "question": "which?",
    "data": {
        "scenes": {
            "options": {"data": "scenes"},
            "bases": {"one": {}, "two": {"pretrain": {"seed": 2}}},
            "metrics": {"new": "held_out/segm/AP", "old": "known/segm/AP"},
            "gain": "new",
            "lost": "old",
        }
    },
    "arms": {"flat": {"geometry": "euclidean"}, "curved": None},
    "seeds": [0, 1],
    "images": [0, 5],
    "tune": {"options": {"optim.lr": [0.001, 0.01, 0.1]}, "steps": 3},
    "comparisons": [["curved", "flat"]],
}


def written(folder: Path, **changes: object) -> Path:
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False))
    return file


def test_runs_have_seeds_outermost_and_every_arm_the_same_trials(tmp_path):
    plan = read_plan(written(tmp_path))
    assert (plan.name, plan.arms["curved"], plan.comparisons) == ("study", {}, (("curved", "flat"),))
    assert plan.data["scenes"].rule(plan.dial) == "max held_out/segm/AP where known/segm/AP >= base-0.02"
    runs = runs_of(plan)
    assert len(runs) == 16
    assert [run.seed for run in runs] == [0] * 8 + [1] * 8
    assert [run.arm for run in runs[:2]] == ["flat", "curved"]
    assert [run.name for run in runs[:5:4]] == ["scenes_one_flat_seed0", "scenes_one_flat_seed0_5images"]
    assert runs[0].key(RUNS) == ("study", "scenes", "one", "flat", "0", "all")
    trials = trials_of(plan)
    assert [(one.arm, one.base, one.seed, one.tuned) for one in trials[:2]] == [
        ("flat", "one", 1000, ("optim.lr=0.001",)),
        ("curved", "one", 1000, ("optim.lr=0.001",)),
    ]
    assert len(trials) == len({one.name for one in trials}) == 6
    part = plan.restricted({"only": ["flat"], "bases": ["two"], "seeds": [7], "images": None})
    assert {(run.base, run.arm, run.seed) for run in runs_of(part)} == {("two", "flat", 7)}
    assert part.comparisons == ()


def test_an_arm_gets_the_options_of_its_best_trial(tmp_path):
    plan = read_plan(written(tmp_path))
    trials = trials_of(plan)
    gains = {("flat", "0.001"): 0.1, ("flat", "0.01"): 0.3, ("flat", "0.1"): 0.3, ("curved", "0.1"): 0.2}
    gains[("curved", "0.001")] = float("nan")
    rows = [
        {**one.cells, "gain": cell(gains[place])}
        for one in trials
        if (place := (one.arm, one.tuned[0].partition("=")[2])) in gains
    ]
    choices = choices_of(trials, rows)
    assert {arm: choice.best[0] for (_, arm), choice in choices.items()} == {
        "flat": ("optim.lr=0.01",),
        "curved": ("optim.lr=0.1",),
    }
    assert with_options(runs_of(plan)[1], choices).cells["tuned"] == "optim.lr=0.1"
    assert list(choice_lines(plan, choices)) == [
        "tuned: scenes, flat: optim.lr=0.01 (warning: a tie: optim.lr=0.1 had a gain of +0.300 as well; of equal ones "
        "the first in the plan is taken)",
        "tuned: scenes, curved: optim.lr=0.1 (warning: optim.lr=0.1 is at the edge of the 3 values that were tried)",
    ]
    rows = [{**row, "gain": "0.0", "dial": "0.0"} for row in rows]
    (line, *_) = choice_lines(plan, choices_of(trials, rows))
    assert "had a gain of +0.000 at dial 0, as the base itself, as well" in line
    (line, *_) = choice_lines(plan, choices_of(trials, [{**row, "gain": ""} for row in rows]))
    assert "had no finite loss" in line
    assert TRIALS.key_of(rows[0]) == trials[0].key(TRIALS)


def test_rows_of_a_changed_plan_are_refused_by_name(tmp_path):
    runs = runs_of(read_plan(written(tmp_path)))
    identities = {run: identity_of({"arm": run.arm, "new": None}) for run in runs}
    rows = [{**run.cells, "identity": identities[run], "seconds": "10"} for run in runs[:3]]
    assert missing(identities, rows, RUNS, "refuse") == runs[3:]
    assert expected_seconds(runs[3:], rows) == 130.0
    assert expected_seconds(runs, []) is None
    rows[1]["identity"] = "another"
    with pytest.raises(ConfigError, match=r"1 of 3 rows .*: scenes/one/curved/0/all; expected changed=rerun"):
        missing(identities, rows, RUNS, "refuse")
    assert missing(identities, rows, RUNS, "keep") == runs[3:]
    assert missing(identities, rows, RUNS, "rerun") == [runs[1], *runs[3:]]


def test_an_identity_is_of_what_is_switched_on():
    assert identity_of({"a": 1, "b": "none", "c": 0, "d": ()}) == identity_of({"a": 1})
    assert len({identity_of(one) for one in ({"a": 1}, {"a": 2}, {"a": 1.5}, {"a": True}, {"b": 1})}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": {}}, "plan.arm is not an option; expected one of name, .*; did you mean arms?"),
        ({"arms": {}}, "a plan needs data, arms, and a base"),
        ({"arms": {"a b": {}}}, "'a b': a plan's names have letters, digits"),
        ({"arms": [1]}, "arms: \\[1\\]; expected a mapping"),
        ({"seeds": [1, 1]}, "seeds=\\[1, 1\\]; expected distinct integers"),
        ({"images": []}, "images=\\[\\]; expected distinct integers"),
        ({"comparisons": [["flat", "round"]]}, "comparisons='round' is unknown; expected one of flat, curved"),
        ({"comparisons": [["flat"]]}, "expected a list of pairs of two arms"),
        ({"comparisons": ["flat"]}, "expected a list of pairs"),
        ({"margin": 0}, "plan.margin=0; expected a positive number"),
        ({"dial": {"grid": [3]}}, "dial.grid=\\[3\\]; expected distinct numbers from 0 to 2"),
        ({"tune": {"options": {"optim.lr": 1}}}, "tune.options.optim.lr=1; expected a list of values"),
        ({"data": {"scenes": {"metrics": {}, "gain": "new"}}}, "data.scenes.gain='new' is unknown"),
        ({"data": {"scenes": {"metrics": {"gain": "x"}, "gain": "gain"}}}, "metrics.gain: expected a name"),
        ({"data": {"scenes": {"gain": "new"}}}, "data.scenes.metrics is missing"),
        (
            {"data": {"s": {"metrics": {"n": "x"}, "gain": "n", "bases": {"b": {"pretrain": {}, "seed": 1}}}}},
            "expected pretrain alone",
        ),
    ],
)
def test_a_plan_that_cannot_be_is_named_with_its_file(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=rf"study\.yaml: .*{message}"):
        read_plan(written(tmp_path, **changes))


def test_a_part_that_is_not_in_the_plan_is_named(tmp_path):
    plan = read_plan(written(tmp_path))
    with pytest.raises(ConfigError, match=r"only='curvd' is unknown; expected one of flat, curved; did you mean"):
        plan.restricted({"only": ["curvd"]})
    with pytest.raises(ConfigError, match="bases='three' is unknown"):
        plan.restricted({"bases": ["three"]})


def test_a_plan_extends_another_one(tmp_path):
    written(tmp_path)
    (tmp_path / "more.yaml").write_text("extends: study\nseeds: [9]\narms: {round: {}}\ncomparisons: []\n")
    plan = read_plan(tmp_path / "more.yaml")
    assert (plan.name, plan.seeds, list(plan.arms), plan.question) == ("more", (9,), ["round"], "which?")
    (tmp_path / "study.yaml").write_text("extends: more\n")
    with pytest.raises(ConfigError, match=r"study\.yaml: extends=study: the plans extend each other"):
        read_plan(tmp_path / "study.yaml")
    (tmp_path / "study.yaml").write_text("extends: nothing\n")
    with pytest.raises(ConfigError, match=r"nothing\.yaml: no such file"):
        read_plan(tmp_path / "study.yaml")


def test_worlds_of_a_plan_extend_those_of_another_one(tmp_path):
    def more(data):
        (tmp_path / "more.yaml").write_text(f"extends: study\ndata: {data}\n")
        return read_plan(tmp_path / "more.yaml").data

    written(tmp_path)
    before = read_plan(tmp_path / "study.yaml").data
    assert more("{}") == before
    (name,) = before
    changed = more(f"{{{name}: {{options: {{data.seed: 9}}, bases: {{other: {{}}}}}}}}")[name]
    assert changed == replace(before[name], options={**before[name].options, "data.seed": 9}, bases={"other": {}})
    added = more("{own: {metrics: {AP: segm/AP}, gain: AP}}")
    assert list(added) == [name, "own"]
    assert added[name] == before[name]
    alone = more(f"{{{name}: null, own: {{metrics: {{AP: segm/AP}}, gain: AP}}}}")
    assert alone == {"own": added["own"]}
    with pytest.raises(ConfigError, match=rf"more\.yaml: data's worlds to be left out='shop' is unknown; .* {name}"):
        more("{shop: null}")
