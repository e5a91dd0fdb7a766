"""A study of which bases, trials and runs fail: what goes on, what is said, and what is tried again."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from stub_study import GAINS, PLAN, names

from sam3_hyperet.ablation.failures import recorded
from sam3_hyperet.ablation.rows import TRIALS
from sam3_hyperet.cli import ablation_run, ablation_work
from sam3_hyperet.cli.ablation_attempts import Attempts, Budget
from sam3_hyperet.cli.ablation_configs import recipe_file
from sam3_hyperet.cli.ablation_failures import loses_device
from sam3_hyperet.cli.ablation_study import open_study
from sam3_hyperet.errors import UserError
from sam3_hyperet.files import write_json


@pytest.fixture
def failing(made, monkeypatch):
    """Errors of runs and bases to be raised, by the name of their folder; the stub makes the others."""
    errors: dict[str, BaseException] = {}
    stub = ablation_run.run

    def run(config):
        if (error := errors.get(Path(config.run_dir).name)) is not None:
            raise error
        return stub(config)

    def make_base(config, file, recipe):
        if (error := errors.get(Path(config.run_dir).name)) is not None:
            raise error
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"weights")
        write_json(recipe_file(file), {"recipe": recipe})

    monkeypatch.setattr(ablation_run, "run", run)
    monkeypatch.setattr(ablation_run, "make_base", make_base)
    return errors


def test_a_failed_run_does_not_end_the_others(study, made, failing, tmp_path, capsys):
    failing["scenes_base_curved_seed0"] = UserError("no finite loss")
    failing["scenes_base_curved_seed1"] = RuntimeError("shapes differ:\n2 and 3")
    why = "2 of 6 runs failed: scenes_base_curved_seed0: no finite loss; scenes_base_curved_seed1: RuntimeError: shapes"
    with pytest.raises(UserError, match=f"^{why} differ: 2 and 3; what else could be made is, and the same command"):
        study()
    assert len(made) == 4
    said = capsys.readouterr().out
    assert f"failed: scenes_base_curved_seed0: no finite loss; log: {tmp_path / 'study'}/runs" in said
    assert "4 rows of study" in said
    page = tmp_path / "study" / "evidence.md"
    assert why.replace("_", "\\_") in page.read_text()
    study("runs=0")  # says it as well, and ends well: nothing was to be made
    assert why in capsys.readouterr().out
    failing["scenes_base_curved_seed0"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        study()
    assert len(made) == 4
    failing.clear()
    study()  # makes them, and forgets why they failed
    assert len(made) == 6
    assert "failed" not in page.read_text()
    assert not list((tmp_path / "study").rglob("failed.json"))


FAULT = RuntimeError("CUDA error: an illegal memory access was encountered")


def test_after_a_fault_of_the_device_nothing_more_is_tried_in_the_process(study, made, failing, tmp_path):
    failing["scenes_base_flat_seed1"] = FAULT
    with pytest.raises(UserError, match=r"1 of 6 runs failed: scenes_base_flat_seed1: .* after an error of the device"):
        study()
    before = names(made)
    assert before == [f"scenes_base_{arm}_seed0" for arm in GAINS]
    assert len((tmp_path / "study" / "study.csv").read_text().splitlines()) == 4
    with pytest.raises(UserError, match="after an error of the device"):
        study()
    assert len(made) == 5  # what had failed came last
    failing.clear()
    study()
    assert len(made) == 6


@pytest.mark.parametrize("broken", ["scenes_first", "scenes_first_flat_seed7_lr0.2"])
def test_what_had_failed_comes_last_whatever_it_is(study, made, failing, broken):
    recipe = {"experiment": "pretrain_levels", "train.max_steps": 90}
    bases = {"first": {"pretrain": {**recipe, "seed": 1}}, "second": {"pretrain": {**recipe, "seed": 2}}}
    plan = {"data": {"scenes": {**PLAN["data"]["scenes"], "bases": bases}}}
    if "lr" in broken:
        plan["tune"] = {"options": {"optim.lr": [0.1, 0.2]}, "seed": 7}
    failing[broken] = FAULT
    for _ in range(3):
        with pytest.raises(UserError, match="after an error of the device"):
            study("seeds=[0]", **plan)
    others = {name for name in names(made) if name.endswith("seed0")}
    waiting = "first" if broken == "scenes_first" else "flat"  # for the base, or for the trials of the arm
    every = {f"scenes_{base}_{arm}_seed0" for base in bases for arm in GAINS}
    assert others == {name for name in every if waiting not in name.split("_")}
    failing.clear()
    study("seeds=[0]", **plan)
    assert {name for name in names(made) if name.endswith("seed0")} == every


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        ("CUDA error: an illegal memory access was encountered", True),
        ("Triton Error [CUDA]: an illegal memory access was encountered", True),
        ("CUDA error: device-side assert triggered", True),
        ("CUDA error: out of memory", False),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", False),
        ("CUDA error: no kernel image is available for execution on the device", False),
        ("no finite loss", False),
    ],
)
def test_errors_after_which_a_process_can_compute_nothing_more(text, is_lost):
    assert loses_device(RuntimeError(text)) == is_lost
    wrapped = UserError("the step failed")
    wrapped.__cause__ = RuntimeError(text)
    assert loses_device(wrapped) == is_lost


def test_a_failed_base_leaves_the_others_and_their_runs(study, made, failing, monkeypatch, capsys):
    recipe = {"experiment": "pretrain_levels", "train.max_steps": 90}
    bases = {"first": {"pretrain": {**recipe, "seed": 1}}, "second": {"pretrain": {**recipe, "seed": 2}}}
    plan = {"data": {"scenes": {**PLAN["data"]["scenes"], "bases": bases}}}
    failing["scenes_first"] = UserError("out of memory")
    with pytest.raises(UserError, match=r"1 of 2 bases failed: scenes/first: out of memory; what else"):
        study("seeds=[0]", **plan)
    assert names(made) == [f"scenes_second_{arm}_seed0" for arm in GAINS]
    assert "3 runs left, 3 of them waiting for their base or for trials of their arm" in capsys.readouterr().out
    sent = []
    monkeypatch.setattr(ablation_work, "submit_jobs", lambda *given, **more: sent.append(given))
    monkeypatch.setattr(ablation_work, "recognised_here", lambda config, say: config)
    for expected in (["scenes_second_flat_seed1"], ["scenes_first"]):  # a failed one comes last
        study("only=flat", "launcher=slurm", **plan)
        function, configs, *_ = sent.pop()
        assert names(configs) == expected
        assert "1 of 2 bases failed: scenes/first: out of memory" in capsys.readouterr().out
        for config in configs if "run_job" in function else ():
            ablation_run.run(config)
    with pytest.raises(SystemExit):
        ablation_run.make_base_job(configs[0])
    assert capsys.readouterr().err == "error: out of memory\n"
    failing.clear()
    ablation_run.make_base_job(configs[0])
    study(**plan)
    assert len(made) == 12


def test_a_failed_trial_leaves_the_other_arms(study, made, failing, monkeypatch, capsys):
    plan = {"tune": {"options": {"optim.lr": [0.1, 0.2]}, "seed": 7}}
    failing["scenes_base_flat_seed7_lr0.2"] = UserError("out of memory")
    with pytest.raises(UserError, match=r"1 of 6 trials failed: scenes_base_flat_seed7_lr0\.2: out of memory; what"):
        study("seeds=[0]", **plan)
    assert names(made)[5:] == ["scenes_base_curved_seed0", "scenes_base_A_seed0"]
    assert "tuned: scenes, flat" not in capsys.readouterr().out
    monkeypatch.setattr(Attempts, "_make", lambda attempts, task: pytest.fail(f"{task.name} is made once more"))
    opened = study("seeds=[0]", tool=open_study, **plan)
    attempts = Attempts(opened)
    attempts.again = True
    with pytest.raises(UserError), recorded(opened.composer.folder_of(opened.left(TRIALS)[0]), str):
        raise UserError("in another process, meanwhile")
    tasks = ablation_work._run_tasks(opened, TRIALS, attempts, ablation_run.run)
    attempts.make(tasks, Budget(None, None), wait=True)
    assert [attempts.has_failed(task) for task in tasks] == [True]


def test_a_base_of_a_mended_recipe_is_begun_anew(study, monkeypatch):
    """Whether it was finished or not: runs on the base before would be rows of a recipe that they do not have."""
    resumed = []
    monkeypatch.setattr(ablation_run, "train", lambda config: resumed.append(config.resume))
    monkeypatch.setattr(ablation_run, "save_best", lambda run_dir, file: file.write_bytes(b"weights"))
    for lr in (1.0, 1.0, 0.1):
        base = {"pretrain": {"experiment": "pretrain_levels", "train.max_steps": 9, "optim.base_lr": lr}}
        opened = study(tool=open_study, data={"scenes": {**PLAN["data"]["scenes"], "bases": {"first": base}}})
        config = opened.composer.base("scenes", "first")
        place = "scenes", "first"
        assert opened.bases_left() == ([] if resumed == ["auto"] else [place])
        ablation_run.make_base(config, opened.composer.base_file(*place), opened.composer.recipe(*place))
        (Path(config.run_dir) / "config.yaml").write_text(OmegaConf.to_yaml(config))
    assert resumed == ["auto", "auto", "never"]
