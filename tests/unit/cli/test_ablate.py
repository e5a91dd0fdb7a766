"""`sam3-hyperet ablate` with a stub in place of a run: order, resumption, changed plans, parts, Slurm."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from stub_study import GAINS, PLAN, names

from sam3_hyperet.ablation.rows import RUNS, TRIALS, read_rows
from sam3_hyperet.ablation.runs import runs_of
from sam3_hyperet.cli import ablation_attempts, ablation_inputs, ablation_run, ablation_work
from sam3_hyperet.cli.ablation_configs import in_layers
from sam3_hyperet.cli.ablation_study import open_study
from sam3_hyperet.cli.command import CONFIGS
from sam3_hyperet.errors import ConfigError, UserError
from sam3_hyperet.files import sole_use
from sam3_hyperet.training.loop import TrainingFailed
from sam3_hyperet.training.run_files import STATE_FILE

pytestmark = pytest.mark.usefixtures("composed_once")


def test_a_study_goes_on_where_it_was_stopped(study, made, capsys):
    csv = study("runs=4")
    assert names(made) == [f"scenes_base_{arm}_seed{seed}" for seed in (0, 1) for arm in ("flat", "curved", "A")][:4]
    assert made[0].seed == 0
    assert made[3].seed == 1
    assert (made[0].hyperet.sites, made[2].hyperet.sites) == (["encoder_layer", "prompt"], None)
    assert not made[0].evaluate
    assert "2 runs left; the same command goes on" in capsys.readouterr().out
    study()
    assert len(made) == len(read_rows(csv)) == 6
    study()
    assert len(made) == 6
    said = capsys.readouterr().out
    assert "[2/2] scenes_base_A_seed1: gain +0.053, lost +0.010 at dial 1 (2 s)" in said
    assert "6 runs, 0 of them left" in said
    assert "curved − flat on scenes: undecided with 2 pairs" in said
    assert "| curved − flat | 2 |" in (csv.parent / "evidence.md").read_text()
    csv.write_text("".join(line for line in csv.read_text().splitlines(True) if "flat,0" not in line))
    (csv.parent / "rows" / "scenes_base_flat_seed0.json").unlink()
    study("only=curved")
    assert len(made) == 6
    study()
    assert names(made[6:]) == ["scenes_base_flat_seed0"]


def test_rows_of_other_options_are_never_mixed(study, made):
    study()
    with pytest.raises(ConfigError, match="6 of 6 rows were measured with other options"):
        study("train.max_steps=3")
    with pytest.raises(ConfigError, match=r"2 of 6 rows .*scenes/base/curved/0/all"):
        study(arms={**PLAN["arms"], "curved": {"geometry": "gyro"}})
    study("changed=keep", arms={**PLAN["arms"], "curved": {"geometry": "gyro"}})
    assert len(made) == 6
    study("changed=rerun", arms={**PLAN["arms"], "curved": {"geometry": "gyro"}})
    assert names(made[6:]) == ["scenes_base_curved_seed0", "scenes_base_curved_seed1"]
    study("train.threads=1", "train.log_every=3", arms={**PLAN["arms"], "curved": {"geometry": "gyro"}})
    assert len(made) == 8  # these decide nothing


def test_runs_and_trials_of_the_same_options_are_taken_over(study, made, tmp_path, monkeypatch, capsys):
    tune = {"options": {"optim.lr": [0.001, 0.004]}}
    first = study(tune=tune)
    count = len(made)
    capsys.readouterr()
    arms = {"level": PLAN["arms"]["flat"], "gyro": {"geometry": "gyro"}}
    other = {"name": "other", "arms": arms, "comparisons": [["gyro", "level"]], "tune": tune}
    arguments = [f"run_dir={tmp_path / 'other'}", f"reuse={first}"]
    study(*arguments, "dry_run=true", **other)
    assert not (tmp_path / "other").exists()
    capsys.readouterr()
    monkeypatch.setitem(GAINS, "gyro", 0.3)
    monkeypatch.setitem(GAINS, "level", 0.3)
    rows = read_rows(study(*arguments, **other))
    said = capsys.readouterr().out
    assert f"2 trials taken over from {first}\n2 runs taken over from {first}\n" in said
    assert {config.ablation.cells.arm for config in made[count:]} == {"gyro"}
    taken = {row["seed"]: row for row in rows if row["arm"] == "level"}
    assert {row["plan"] for row in rows} == {"other"}
    for seed, row in taken.items():
        (same,) = [one for one in read_rows(first) if (one["arm"], one["seed"]) == ("flat", seed)]
        assert {**row, "plan": "study", "arm": "flat"} == same
    other["arms"] = {**arms, "level": {"geometry": "lorentz"}}  # there as curved, but rows of other options are here
    count = len(made)
    study(*arguments, "changed=rerun", **other)
    assert "taken over" not in capsys.readouterr().out
    assert [config.ablation.cells.arm for config in made[count:]] == ["level"] * 4
    with pytest.raises(ConfigError, match=r"reuse=/nowhere\.csv: no such file"):
        study("reuse=/nowhere.csv", tune=tune)


def test_arms_are_tuned_by_the_same_trials_before_any_run(study, made, capsys):
    tune = {"options": {"optim.lr": [0.001, 0.004, 0.002]}, "steps": 1, "seed": 77}
    csv = study("seeds=[5]", tune=tune)
    trials, runs = made[:9], made[9:]
    assert {(config.seed, config.train.max_steps) for config in trials} == {(77, 1)}
    assert [(config.seed, config.optim.lr, config.train.max_steps) for config in runs] == [(5, 0.004, 4)] * 3
    assert {row["tuned"] for row in read_rows(csv)} == {"optim.lr=0.004"}
    assert len(csv.with_name("study_trials.csv").read_text().splitlines()) == 10
    assert "tuned: scenes, curved: optim.lr=0.004\n" in capsys.readouterr().out
    study("seeds=[5]", "tune=false", "changed=rerun", tune=tune)
    assert [config.optim.lr for config in made[12:]] == [0.003] * 3
    with pytest.raises(ConfigError, match=r"optim\.lr is tuned by the plan; expected tune=false"):
        study("optim.lr=1", tune=tune)


def test_a_tie_of_trials_is_said_and_stands_on_the_page(study, made, capsys):
    csv = study("seeds=[5]", "only=flat", tune={"options": {"optim.warmup": [1, 2]}})
    said = "uned: scenes, flat: optim.warmup=1 (warning: a tie: optim.warmup=2 had a gain of +0.103 as well; of equal"
    assert f"t{said}" in capsys.readouterr().out
    assert f"T{said}" in (csv.parent / "evidence.md").read_text()


def test_runs_of_another_process_are_left_to_it(study, made, tmp_path, monkeypatch, capsys):
    taken = tmp_path / "study" / "runs" / "scenes_base_flat_seed0"

    def use(folder):
        if folder == taken:
            raise ConfigError("in use")
        return sole_use(folder)

    monkeypatch.setattr(ablation_attempts, "sole_use", use)
    study("seeds=[0]")
    assert names(made) == ["scenes_base_curved_seed0", "scenes_base_A_seed0"]
    assert "being made by other processes: scenes_base_flat_seed0\n" in capsys.readouterr().out


def test_a_dry_run_says_what_is_left_and_how_long_it_takes(study, made, capsys):
    study("runs=2")
    capsys.readouterr()
    study("dry_run=true")
    said = capsys.readouterr().out
    assert "6 runs, 4 of them left: about 0:00:08" in said
    assert "  scenes_base_A_seed1" in said
    assert len(made) == 2
    study("hours=1e-9")
    assert len(made) == 2


def test_missing_bases_are_made_before_their_runs(study, made, tmp_path, monkeypatch):
    bases = []

    def make(config, file, recipe):
        bases.append((config.seed, config.train.max_steps, Path(config.run_dir).name))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"weights")

    monkeypatch.setattr(ablation_run, "make_base", make)
    scenes = {
        **PLAN["data"]["scenes"],
        "bases": {"a": {}, "b": {"pretrain": {"experiment": "pretrain_levels", "seed": 3, "train.max_steps": 90}}},
    }
    refusals = [ConfigError("another process is making it")]

    def use(folder):
        if folder.name == "scenes_b" and refusals:
            raise refusals.pop()
        return sole_use(folder)

    monkeypatch.setattr(ablation_attempts, "sole_use", use)
    monkeypatch.setattr(ablation_attempts, "_WAIT_SECONDS", 0)
    study("only=flat", data={"scenes": scenes})
    assert not refusals
    assert bases == [(3, 90, "scenes_b")]
    file = str(tmp_path / "study" / "bases" / "scenes_b.safetensors")
    assert [config.model.checkpoint for config in made] == [None, None, file, file]  # not held up by the other base
    assert [config.model.name for config in made[1:3]] == ["tiny", "tiny_levels"]


def test_a_slurm_array_has_what_is_missing(study, made, monkeypatch, capsys):
    sent = []
    monkeypatch.setattr(ablation_work, "submit_jobs", lambda *given, **more: sent.append((given, more)))
    study("runs=2")
    study("launcher=slurm")
    ((function, configs, folder, name, _), more), *_ = sent
    assert (function, name, folder.name) == ("sam3_hyperet.cli.ablation_run:run_job", "ablate-study", "study")
    assert more == {"state": STATE_FILE}
    assert names(configs) == ["scenes_base_A_seed0", *(f"scenes_base_{arm}_seed1" for arm in GAINS)]
    assert {config.launcher.name for config in configs} == {"slurm"}
    for config in configs:
        ablation_run.run(config)
    study("launcher=slurm")
    assert len(sent) == 1
    assert "nothing is left to be run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ony=flat"], "ablate: key 'ony' is unknown \\(did you mean only"),
        (["train.max_step=1"], "scenes, base, flat: train.max_step is not an option"),
        (["seed=1"], "seed= is each run's own; expected seeds=\\[…\\]"),
        (["only=flt"], "only='flt' is unknown; expected one of flat, curved, A"),
        (["seeds=[a]"], "seeds=.*; expected integers"),
        (["seeds=[]"], "seeds=\\[\\]; expected one at least, or null for all of the plan's"),
        (["only=[]"], "only=\\[\\]; expected one"),
        (["worlds="], "worlds=; expected one"),
        (["csv=rows.txt"], "csv=rows.txt; expected a file"),
        (["model.checkpoint=/nowhere.pt"], "model.checkpoint=/nowhere.pt: no such file"),
        (["changed=maybe"], "changed='maybe' is unknown"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(study, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        study(*arguments)
    assert not (tmp_path / "study").exists()


def test_the_images_of_an_arm_and_of_a_base_are_checked_too(study, monkeypatch):
    seen = []
    monkeypatch.setattr(ablation_inputs, "_check_images", lambda study, run, options: seen.append(options.data.seed))
    arms = {"flat": {"geometry": "euclidean"}, "other": {"data.seed": 7}, "curved": {"geometry": "lorentz"}}
    scenes = {**PLAN["data"]["scenes"], "bases": {"a": {}, "b": {"data.seed": 8}, "c": {}}}
    opened = study(tool=open_study, arms=arms, data={"scenes": scenes})
    ablation_inputs.check_inputs(opened)
    assert sorted(seen) == [0, 7, 8]


def test_tuning_images_that_are_trained_on_are_refused(study, tmp_path):
    without_tune = {"data": "scenes_levels", "data.splits": {"train": 6, "val": 2}, "data.tune_images": 2}
    scenes = {**PLAN["data"]["scenes"], "options": {**without_tune, "paths.scenes": str(tmp_path / "scenes")}}
    never = {**PLAN["common"], "train.validate_every": 0, "train.best": "loss"}
    opened = study(tool=open_study, common=never, data={"scenes": scenes})
    with pytest.raises(UserError, match=r"flat: tune has 2 pictures of train, the same file.*validate_every from 1"):
        ablation_inputs.check_inputs(opened)


def test_a_recognised_data_set_is_known_by_its_folder(study):
    def identities(root):
        arguments = ["data=auto", f"data.root={root}", "data.groups=null"]
        opened = study(*arguments, tool=open_study)
        return {opened.composer.identity(run) for run in runs_of(opened.part)}

    assert identities("/data/shop") == identities("/other/shop")
    assert not identities("/data/shop") & identities("/data/kitchen")


def test_a_trial_without_a_finite_loss_is_never_chosen(study, monkeypatch):
    def failing(*arguments):
        raise failure

    failure = TrainingFailed("not finite")
    monkeypatch.setattr(ablation_run, "_trained", failing)
    opened = study("only=flat", tool=open_study, tune={"options": {"optim.lr": [1.0, 0.1]}})
    first, second = opened.trials
    row = ablation_run.run(opened.job(first))
    assert row.get("gain", "") == ""
    assert opened.left(TRIALS) == [second]
    run = runs_of(opened.part)[0]
    with pytest.raises(TrainingFailed):
        ablation_run.run(opened.job(run))
    failure = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        ablation_run.run(opened.job(run))
    log = (opened.composer.folder_of(run) / "log.txt").read_text()
    assert "Traceback" in log
    assert log.endswith("RuntimeError: a bug\n")


def test_what_is_kept_needs_names_and_a_metric(study):
    scenes = {**PLAN["data"]["scenes"], "lost": "kept"}
    scenes["metrics"] = {**scenes["metrics"], "kept": "kept/segm/AP"}
    with pytest.raises(ConfigError, match=r"metrics\.kept=kept/segm/AP needs names .* expected kept\.names="):
        study(data={"scenes": scenes})
    with pytest.raises(ConfigError, match=r"kept\.names=\('tree',\) decides nothing; expected a metric of it"):
        study("kept.names=[tree]")

    with pytest.raises(ConfigError, match=r"names=\('sky',\).* differs from .*\('tree',\).* the same kept in all arms"):
        study(
            data={"scenes": scenes}, arms={"a": {"kept.names": ["tree"]}, "b": {"kept.names": ["sky"]}}, comparisons=[]
        )

    def digests(*arguments, **changes):
        opened = study(*arguments, tool=open_study, tune={"options": {"optim.lr": [1.0, 0.1]}}, **changes)
        run = opened.trials[0]
        scored = {opened.composer.identity(run), *(opened.composer.base_score(run, one) for one in ("tune", "val"))}
        return scored, opened.composer.trained(run)

    (tree, trained), (sky, _), (few, _) = (
        digests(*given, data={"scenes": scenes})
        for given in (["kept.names=[tree]"], ["kept.names=[sky]"], ["kept.names=[tree]", "kept.images=9"])
    )
    assert len(tree | sky | few) == 9
    assert digests()[1] == trained  # nothing is trained anew for it


def test_bases_are_not_made_the_same(study):
    scenes = {**PLAN["data"]["scenes"], "bases": {"a": {"model.checkpoint": "a.pt"}, "b": {"model.checkpoint": "b.pt"}}}
    with pytest.raises(ConfigError, match="would make the bases of scenes the same; expected bases=NAME"):
        study("model.checkpoint=sam3.pt", data={"scenes": scenes})
    with pytest.raises(ConfigError, match="data= would replace each of the plan's scenes, more"):
        study("data=coco", data={"scenes": scenes, "more": scenes})


def test_a_later_layer_replaces_what_an_earlier_one_says_by_another_name():
    layers = [["hyperet.sites=[fpn]", "train.epochs=1"], ["scheme=B"], ["train.max_steps=3"]]
    assert in_layers(layers) == ["scheme=B", "train.max_steps=3"]
    assert in_layers([["hyperet.sites=[fpn]"], ["hyperet.sites=[prompt]"]])[-1] == "hyperet.sites=[prompt]"


@pytest.mark.parametrize("plan", sorted(file.stem for file in (CONFIGS / "ablation").glob("*.yaml")))
def test_a_plan_of_the_repository_composes(plan, tmp_path):
    own_data = ["data.root=/data/shop"] if plan.startswith("official") else []
    own_data += ["kept.names=[tree]"] if plan == "official_kept" else []
    study = open_study([plan, f"run_dir={tmp_path}", "tune=false", *own_data])
    worlds = list(study.plan.data)[: None if plan == "evidence" else 1]
    first = [next(iter(study.plan.data[name].bases)) for name in worlds]
    study.part = study.plan.restricted({"worlds": worlds, "bases": first, "seeds": [0]})
    study.check()
    assert study.plan.question
    assert study.plan.comparisons


def test_the_evidence_is_of_the_plan_as_it_is(tmp_path):
    for file in (CONFIGS.parent / "docs").glob("evidence*.csv"):
        shutil.copy(file, tmp_path)
    study = open_study(["evidence", f"run_dir={tmp_path}", f"csv={tmp_path}/evidence.csv", "seeds=[0]"])
    assert not study.left(TRIALS)
    assert study.left(RUNS) is not None  # it raises for rows of other options
