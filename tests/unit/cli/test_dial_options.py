"""`dial=` of evaluate, predict and merge: what it does, where it is kept, and what is refused at once."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from answers import answers, largest_relative_difference
from omegaconf import OmegaConf

import sam3_hyperet as hy
from sam3_hyperet.cli import merge, predict
from sam3_hyperet.cli.dial import DialOptions, tuned_on
from sam3_hyperet.cli.evaluate import main
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.adapter_file import read_adapter_dial
from sam3_hyperet.scenes.dataset import scenes_folder

RANDOM = ["model=tiny", "model.checkpoint=random"]
FEW = ["protocol.limit=1", "protocol.bootstrap=0", "protocol.granularity=false"]
RULE = "dial_rule=min presence/accuracy_absent where segm/AP >= base-0.02"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A few small scenes of which two concepts are asked, as overrides."""
    root = tmp_path_factory.mktemp("scenes")
    splits = ["data.splits.train=2", "data.splits.tune=2", "data.splits.val=2", "data.seed=1"]
    return ["data=scenes", f"paths.scenes={root}", *splits, "data.vocabulary=[dog,tree]", *FEW]


@pytest.fixture
def adapter(another, randomized, tmp_path):
    """The file of an adapter that can be folded, and its model."""
    model = randomized(hy.inject(another(), hy.HyperETConfig(sites=("prompt",), geometry="euclidean")), scale=0.1)
    hy.save_adapter(model, tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors", model


@pytest.fixture
def evaluate(scenes, adapter, tmp_path, monkeypatch):
    """A function that evaluates the adapter and returns its metrics and, if there is to be one, its report."""

    def run(*arguments, name="evaluated", report=True):
        if not report:
            monkeypatch.setattr("sam3_hyperet.cli.compare.write_comparison", lambda *_: None)
        folder = main([*RANDOM, *scenes, f"adapter={adapter[0]}", f"run_dir={tmp_path / name}", *arguments])
        return json.loads((folder / "metrics.json").read_text()), report and (folder / "report.html").read_text()

    return run


def scored(metrics, prefix=""):
    return {key: value for key, value in metrics.items() if key.startswith(f"{prefix}scenes/") and "speed" not in key}


def test_an_adapter_along_its_dial(evaluate, tmp_path, capsys):
    along, page = evaluate("dial=[1,0,.25]", "protocol.examples=1", "dial_rule=max segm/AP where fused/mIoU >= base")
    plain, _ = evaluate("dial=.25", "protocol.examples=0", name="plain", report=False)
    assert {key.partition("/")[0] for key in along if "/segm/AP" in key} == {"base", "dial_0.25", "dial_1"}
    own = {key.removeprefix("dial_0.25/"): value for key, value in scored(along, "dial_0.25/").items()}
    assert own == scored(plain) != scored(along, "base/")
    assert (along["dial_0.25/dial"], along["dial_1/dial"], plain["dial"]) == (0.25, 1.0, 0.25)
    assert "The dial: gain against forgetting" in page
    assert ">segm/AP from .000 with the base to .000 at 1, as trained</dd>" in page
    assert "<dt>Kept</dt>" in page
    said = capsys.readouterr().out
    assert "scenes/instance/unassigned" in said  # in full
    assert said.count("along the dial: max segm/AP where fused/mIoU >= base, on 1 val image\n") == 1
    assert "the rule is <b>max segm/AP where fused/mIoU &gt;= base</b>" in page
    assert re.findall(r'<tr><th scope="row">([\d.]+)</th>', page) == ["0", "0.25", "1"]
    assert "Curves, images and radii are those of the base and of dial_1" in page
    assert "1, as trained" in page
    assert not (tmp_path / "evaluated" / "records").exists()


def test_the_chosen_dial_is_scored_shown_and_kept(evaluate, adapter, capsys):
    metrics, page = evaluate("dial=auto", RULE, "dial_grid=[.5,1]", "save_dial=true", "protocol.examples=0")
    said = capsys.readouterr().out
    found = {float(key.split("/")[1]): value for key, value in metrics.items() if key.startswith("dial/")}
    assert sorted(found) == [0.0, 0.5, 1.0]
    chosen = metrics["dial"]
    line = f"dial {chosen:g}, chosen by {RULE.partition('=')[2]} on 2 tune images"
    assert line in said
    assert f"own: dial {chosen:g} (its file says 1)" in said
    assert f"own.safetensors: dial {chosen:g}" in said
    assert line[1:] in page.replace("&gt;", ">")
    assert read_adapter_dial(adapter[0]) == chosen


def test_an_adapter_at_dial_0_is_the_base(evaluate, capsys):
    metrics, _ = evaluate("dial=0", "protocol.examples=0", report=False)
    assert "own: at dial 0 it is the base, whose records it has" in capsys.readouterr().out
    assert {f"base/{key}": value for key, value in scored(metrics).items() if "forgetting" not in key} == scored(
        metrics, "base/"
    )


def test_merged_at_a_dial_and_predicted_at_it(adapter, picture, tmp_path, capsys):
    file, model = adapter
    given = [f"adapter={file}", "model.checkpoint=random", "dial=.5"]
    out = merge.main([*given, f"out={tmp_path / 'merged.safetensors'}"])
    assert "dial 0.5; outputs on 1 image differ by" in capsys.readouterr().out
    hy.set_dial(model, 0.5)
    merged = hy.build_model("tiny", checkpoint=out)
    assert largest_relative_difference(answers(merged, picture), answers(model, picture)) <= 1e-5
    picture.save(tmp_path / "one.png")
    shown = [f"images={tmp_path / 'one.png'}", "prompts=car", "overlays=false", f"run_dir={tmp_path / 'predicted'}"]
    folder = predict.main([*given, *shown])
    assert "dial 0.5\n" in capsys.readouterr().out
    assert json.loads((folder / "predictions.json").read_text())["dial"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dial=.5"], "dial=0.5: there is no adapter; expected adapter=FILE, or a run that has one"),
        (["A", "dial=2.5"], "dial=2.5; expected a number from 0, the base, over 1, the adapter, to 2, a list of them"),
        (["A", "dial=[0,0]"], "dial=[0, 0]; expected a number, or a list of two different ones at least"),
        (["A", "dial=[]"], "dial=[]; expected a number from 0"),
        (["A,A", "dial=[0,1]"], "dial=[0, 1] is of one adapter, found 2: own, own-2; expected one"),
        (["A", "dial=auto"], "dial=auto needs dial_rule=…, which chooses; such as dial_rule='max segm/AP where"),
        (["A", "dial=auto", "dial_rule=loss"], "dial_rule='loss': the loss is measured in training alone"),
        (["A", "dial=auto", "dial_rule=max AP"], "dial_rule: the 2 tuning images have no metric 'AP'; expected one of"),
        (["A", "dial=[0,1]", "dial_rule=max AP"], "dial_rule: images of the val split have no metric 'AP'"),
        (["A", "dial=auto", RULE, "split=tune"], "dial=auto chooses on the tune split; expected split=val"),
        (["A", "dial=auto", RULE, "data.splits={val: 2}"], "data set scenes has neither a tune nor a train split"),
        (["A", "dial=.5", RULE], "dial_rule is for dial=auto and for several dials; found dial=0.5"),
        (["A", "dial=.5", "dial_grid=[1]"], "dial_grid=[1] is for dial=auto; found dial=0.5"),
        (["A", "dial=auto", RULE, "dial_grid=[3]"], "dial_grid=[3]; expected a list, each a number from 0"),
        (["A", "save_dial=true"], "save_dial=true needs one dial, dial=NUMBER or dial=auto; found no dial"),
        (["A", "dial=[0,1]", "save_dial=true"], "save_dial=true needs one dial, dial=NUMBER or dial=auto"),
        (["adapter=package:tiny_levels", "dial=.5", "save_dial=true"], "package:tiny_levels is none; expected a copy"),
    ],
)
def test_what_is_refused_before_a_model_is_built(scenes, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr("sam3_hyperet.cli.evaluate.open_models", None)
    (tmp_path / "own.safetensors").touch()
    first, *others = arguments
    adapters = [f"adapter=[{','.join([str(tmp_path / 'own.safetensors')] * len(first.split(',')))}]"]
    given = [*adapters, *others] if first[0] == "A" else arguments
    with pytest.raises(ConfigError, match=re.escape(message)):
        main([*RANDOM, *scenes, f"run_dir={tmp_path / 'evaluated'}", *given])


def test_tuning_images_are_never_scored(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("sam3_hyperet.cli.evaluate.open_models", None)
    root = next(one for one in scenes if one.startswith("paths.scenes=")).partition("=")[2]
    open_split(DataOptions(name="drawn", format="scenes", root=root, splits={"val": 2}, seed=1), "val")
    folder = scenes_folder(Path(root), 2, seed=1)
    coco = ["data=coco", f"data.root={folder}", "data.vocabulary=[dog,tree]"]
    val = "[val/images, annotations/instances_val.json]"
    (tmp_path / "own.safetensors").touch()
    coco.append(f"data.splits={{tune: {val}, val: {val}}}")
    with pytest.raises(ConfigError, match="dial=auto: 2 of its tuning images are scored in split=val, the first"):
        main(
            [*RANDOM, *coco, f"adapter={tmp_path / 'own.safetensors'}", "dial=auto", RULE, f"run_dir={tmp_path / 'o'}"]
        )


def test_one_number_alone_for_predict_and_merge(tmp_path):
    for tool, given in ((predict, ["images=x", "prompts=car"]), (merge, ["out=x.pt"])):
        with pytest.raises(ConfigError, match=r"dial=\[0, 1\]; expected a number from 0, the base, over 1"):
            tool.main([*given, "dial=[0,1]"])
    with pytest.raises(ConfigError, match=r"dial=0\.5: there is no adapter"):
        merge.main([*RANDOM[1:], f"out={tmp_path / 'x.pt'}", "layout=official", "dial=.5"])


def test_the_rule_of_a_run_is_its_own(tmp_path):
    """Of train.best, if it names no loss; and a run that held no image out of training is warned of."""
    values = {"model": {"name": "tiny"}, "data": {"name": "x"}, "train": {"best": "segm/AP", "validate_every": 0}}
    OmegaConf.save(OmegaConf.create(values), tmp_path / "config.yaml")
    config = {"dial": "auto", "dial_rule": None, "dial_grid": None, "save_dial": False, "run": str(tmp_path)}
    assert str(DialOptions.of(OmegaConf.create(config)).rule) == "max segm/AP"
    data = DataOptions(name="x", format="scenes", root="x", splits={"train": 9, "val": 9})
    assert "images that" in (said := tuned_on(str(tmp_path), data))
    assert "train.validate_every=0 held none out of training; it may be too high" in said
    assert not tuned_on(str(tmp_path), replace(data, splits={"train": 9, "tune": 3}))
    OmegaConf.save(OmegaConf.create({**values, "train": {"best": "loss"}}), tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"needs dial_rule=…, and train.best of the run has no metric"):
        DialOptions.of(OmegaConf.create(config))
