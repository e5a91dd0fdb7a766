"""A study of two arms end to end: trained, dialled, scored, a row each; then scored anew without training."""

from __future__ import annotations

import weakref

import pytest
import yaml

from sam3_hyperet.ablation.rows import RUNS, number, read_rows
from sam3_hyperet.cli import ablation_run, ablation_scores
from sam3_hyperet.cli.ablate import main
from sam3_hyperet.errors import UserError

pytestmark = pytest.mark.integration

PLAN = {
    "common": {
        "experiment": "smoke",
        "model.checkpoint": "random",
        "train.max_steps": 2,
        "train.validate_every": 0,
        "protocol.granularity": False,
    },
    "data": {
        "scenes": {
            "options": {
                "data.splits": {"train": 4, "tune": 2, "val": 2},
                "data.vocabulary": ["car", "house", "window", "vehicle"],
                "data.groups": {"known": ["car", "house"], "held_out": ["window", "vehicle"]},
            },
            "metrics": {"new": "held_out/segm/AP", "old": "known/segm/AP"},
            "gain": "new",
            "lost": "old",
        }
    },
    "arms": {"flat": {"geometry": "euclidean"}, "curved": {"geometry": "lorentz"}},
    "dial": {"grid": [0.5]},
    "seeds": [3],
    "comparisons": [["curved", "flat"]],
}


def test_a_study_ends_in_rows_that_agree_with_its_metrics(tmp_path, capsys):
    file, folder = tmp_path / "study.yaml", tmp_path / "study"
    file.write_text(yaml.safe_dump(PLAN, sort_keys=False))
    arguments = [str(file), f"run_dir={folder}", f"paths.scenes={tmp_path / 'scenes'}"]
    rows = read_rows(main(arguments))
    assert [(row["arm"], row["seed"], row["geometry"], row["sites"]) for row in rows] == [
        ("curved", "3", "lorentz", "encoder_layer+prompt"),
        ("flat", "3", "euclidean", "encoder_layer+prompt"),
    ]
    assert RUNS.metrics(rows)[:3] == ["new", "new@1", "new@base"]
    for row in rows:
        assert (row["steps"], row["best_step"], row["parameters"]) == ("2", "2", "12483")
        assert number(row, "dial") in (0.0, 0.5)
        assert number(row, "gain") == pytest.approx(number(row, "new") - number(row, "new@base"), abs=2e-6)
        assert number(row, "lost@1") == pytest.approx(number(row, "old@base") - number(row, "old@1"), abs=2e-6)
        assert number(row, "peak_gib") > 0
        if not number(row, "dial"):
            assert row["new"] == row["new@base"]
    run = folder / "runs" / "scenes_base_flat_seed3"
    assert {path.name for path in run.iterdir()} >= {"adapter.safetensors", "log.txt", "config.yaml"}
    assert not {path.name for path in run.iterdir()} & {"state.pt", "adapter_last.safetensors", "records"}
    assert "gain" in capsys.readouterr().out

    PLAN["data"]["scenes"]["metrics"]["absent"] = "presence/accuracy_absent"
    file.write_text(yaml.safe_dump(PLAN, sort_keys=False))
    (again,) = [
        row for row in read_rows(main([*arguments, "changed=rerun", "only=flat", "keep=true"])) if row["arm"] == "flat"
    ]
    assert (again["new"], again["dial"]) == (rows[1]["new"], rows[1]["dial"])
    assert [path.name for path in (run / "records" / "dials").iterdir()] == ["dial_0.5"]  # the base's are kept
    assert again["train_seconds"] == rows[1]["train_seconds"]
    assert 0 <= number(again, "absent@base") <= 1
    assert "trained already" in (run / "log.txt").read_text()


def test_the_limit_may_be_what_is_kept_of_the_base(tmp_path, monkeypatch):
    """The base, which the tiny adapter changes much, is asked before the training, and released."""
    opened = []

    def open_model(*arguments):
        model = ablation_scores_open(*arguments)
        opened.append(weakref.ref(model))
        return model

    def train(config):
        assert [one() for one in opened] == [None]
        assert config.kept == {}
        return ablation_run_train(config)

    ablation_scores_open, ablation_run_train = ablation_scores.open_model, ablation_run.train
    monkeypatch.setattr(ablation_scores, "open_model", open_model)
    monkeypatch.setattr(ablation_run, "train", train)
    scenes = {
        "options": {**PLAN["data"]["scenes"]["options"], "optim.lr": 0.1},
        "metrics": {"new": "held_out/segm/AP", "kept": "kept/segm/AP"},
        "gain": "new",
        "lost": "kept",
    }
    common = {**PLAN["common"], "model.checkpoint": None, "kept.names": ["person", "cloud", "car"]}
    plan = {**PLAN, "common": common, "data": {"scenes": scenes}, "arms": {"flat": {}}, "comparisons": []}
    file, folder = tmp_path / "study.yaml", tmp_path / "study"
    file.write_text(yaml.safe_dump(plan, sort_keys=False))
    arguments = [str(file), f"run_dir={folder}", f"paths.scenes={tmp_path / 'scenes'}"]
    (row,) = read_rows(main([*arguments, "keep=true"]))
    assert number(row, "kept@base") == 1.0
    assert number(row, "lost@1") == pytest.approx(1 - number(row, "kept@1"), abs=2e-6)
    assert number(row, "lost@1") > 0.02  # so that the dial is not left at 1
    assert (number(row, "dial"), number(row, "lost")) != (1.0, number(row, "lost@1"))
    log = (folder / "runs" / "scenes_base_flat_seed3" / "log.txt").read_text()
    asked = [log.index(f"kept: the base was asked for 2 names on 2 {split} images") for split in ("tune", "val")]
    assert max(asked) < log.index("step 1 of 2")
    assert log.count("the base was asked") == 2
    assert "kept: 1 name with labels in scenes left out" in log

    with pytest.raises(UserError, match=r"the base's answers on the tune images show nothing of it; expected other"):
        main([*arguments, "changed=rerun", "kept.names=[zeppelin]"])
    assert "step" not in (folder / "runs" / "scenes_base_flat_seed3" / "log.txt").read_text()[len(log) :]
