"""What identifies a row of a study: options that differ tell rows apart, and rows of other options are not mixed."""

from __future__ import annotations

import pytest

from sam3_hyperet.ablation.runs import runs_of
from sam3_hyperet.cli.ablation_configs import weights_digest
from sam3_hyperet.cli.ablation_study import open_study
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import ModelOptions

pytestmark = pytest.mark.usefixtures("composed_once")


def identity(study, *arguments, **changes):
    opened = study(*arguments, tool=open_study, comparisons=[], **changes)
    return opened.composer.identity(runs_of(opened.part)[0])


def test_zero_and_false_are_told_from_null(study):
    """`data.flip: null` mirrors half of the images, `hyperet.share: null` shares the dense matrices of the trunk."""
    trunk = {"arms": {"P": {"scheme": "P"}}}
    assert identity(study, "data.flip=null") != identity(study, "data.flip=0")
    assert identity(study, "hyperet.share=null", **trunk) != identity(study, "hyperet.share=false", **trunk)
    assert identity(study, "train.prompts_at_once=0") == identity(study)


def test_arms_of_the_same_options_are_refused(study, made):
    arms = {"flat": {"geometry": "euclidean"}, "level": {"geometry": "euclidean", "train.threads": 1}}
    with pytest.raises(ConfigError, match=r"scenes, base: the arms flat and level do not differ in what decides a row"):
        study(arms=arms, comparisons=[["level", "flat"]])
    assert not made


def test_the_page_leaves_rows_of_other_options_out(study, made, capsys):
    csv = study()
    page = csv.parent / "evidence.md"
    assert "| curved − flat | 2 |" in page.read_text()
    study("only=curved", "changed=rerun", "train.max_steps=3")
    assert len(made) == 8
    text = page.read_text()
    assert "4 rows of the plan with other options than it has now" in text
    assert "| curved − flat | 2 |" not in text
    study("only=curved", "changed=keep", "train.max_steps=3")
    assert "| curved − flat | 2 |" in page.read_text()
    assert "4 rows of other options than the plan has now, counted all the same" in page.read_text()
    capsys.readouterr()
    study("runs=0", "train.max_steps=3")
    assert "4 rows of other options than the plan has now, counted all the same" in page.read_text()
    study("runs=0", "model.checkpoint=/nowhere.pt")
    assert "warning: not checked whether the rows are of the plan's present options" in capsys.readouterr().out
    assert "other options" not in page.read_text()
    study("changed=rerun", "train.max_steps=5", "hours=1e-9")  # all rows are of other options: there is nothing to say
    assert len(made) == 8


def test_a_folder_of_weights_is_known_by_their_content(tmp_path):
    digests = set()
    for content in (b"one", b"two"):
        folder = tmp_path / content.decode()
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(content)
        digests.add(weights_digest(ModelOptions(name="tiny", checkpoint=str(folder))))
    assert len(digests) == 2
