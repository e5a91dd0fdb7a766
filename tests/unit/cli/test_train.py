"""The likeliest mistakes at `tools/train.py` end in one clear line and leave nothing behind."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from one_line_errors import error_of
from PIL import Image

from sam3_hyperet.cli.command import CONFIGS, exit_cleanly, parse_command
from sam3_hyperet.cli.train import main, train
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.checkpoint import save_base
from sam3_hyperet.modeling.opening import open_model
from sam3_hyperet.scenes.dataset import scenes_folder, write_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The three splits of a small set of scenes, drawn once."""
    root = tmp_path_factory.mktemp("scenes")
    for number, split in enumerate(("train", "tune", "val")):
        write_scenes(scenes_folder(root, 2, seed=0), 2, number, 128, split)
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory, scenes):
    """The same as a COCO set in its standard tree, all annotations valid."""
    root, drawn = tmp_path_factory.mktemp("coco"), scenes_folder(scenes, 2, seed=0)
    (root / "annotations").mkdir()
    for ours, theirs in (("train", "train2017"), ("val", "val2017")):
        shutil.copytree(drawn / ours / "images", root / theirs)
        shutil.copy(drawn / "annotations" / f"instances_{ours}.json", root / f"annotations/instances_{theirs}.json")
    return root


@pytest.fixture
def fails(scenes, coco, tmp_path, capsys):
    """A function that runs the tool to its error, which it returns; checks that nothing was written."""

    def run(*arguments: str) -> str:
        folder = tmp_path / "run"
        options = ["model.checkpoint=random", "experiment=smoke", f"paths.scenes={scenes}", f"paths.coco={coco}"]
        splits = ["data.splits.train=2", "data.splits.tune=2", "data.splits.val=2"]
        if any(one.startswith("data=") for one in arguments):
            options, splits = [one for one in options if not one.startswith("experiment=")], []
        return error_of(main, [*options, *splits, f"run_dir={folder}", *arguments], capsys, folder)[0]

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["schem=A"], "did you mean scheme?"),
        (["train.max_step=3"], "train.max_step is not an option; expected one of max_steps, "),
        (["hyperet.curvatur=1"], "; did you mean curvature?"),
        (["model.chekpoint=x"], "; did you mean checkpoint?"),
        (["protocol.limits=3"], "; did you mean limit?"),
        (["stage.layers=[x]"], "stage.layers=['x'] is for stage 2; expected stage=2 or stage=schedule"),
        (["scheme=Z"], "scheme='Z' is unknown; expected one of none, A, B, C, P"),
        (["scheme=A+Z"], "scheme='Z' is unknown; expected one of none, A, B, C, P"),
        (["geometry=flat"], "geometry='flat' is unknown; expected one of euclidean, mobius, lorentz, gyro"),
        (["stage=4"], "stage='4' is unknown; expected one of 1, 2, 3, schedule"),
        (["data=voc"], "data='voc' is unknown; expected one of ade20k, "),
        (["data=/"], "data='/' is unknown; expected data=auto data.root=/ for a folder, one of ade20k, "),
        (["train.max_steps"], "'train.max_steps' is not key=value"),
    ],
)
def test_keys_and_choices(fails, arguments, message):
    assert message in fails(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hyperet.structure=foo"], "structure='foo' is unknown; expected one of diagonal, "),
        (["hyperet.curvature=-1"], "curvature=-1; expected a positive number"),
        (["hyperet.layers=[7]"], "no layer of the fusion encoder 7"),
        (["scheme=none"], "stage 1 trains the adapters, and the model has none"),
        (["stage=2", "stage.layers=[nothing]"], "stage 2: no parameter's name matches nothing"),
        (["model.resolution=100"], "expected a multiple of 64 (patch 8 x window 8); near it: 64, 128"),
        (["model.resolution=big"], "model.resolution='big'; expected "),
        (["model.name=huge"], "model 'huge' is unknown; expected one of large, tiny"),
        (["model.checkpoint=/nowhere/sam3.pt"], "/nowhere/sam3.pt: no such file"),
        (["train.max_steps=0"], "train.max_steps=0; expected an integer from 1"),
        (
            ["train.epochs=2", "train.max_steps=4"],
            "train.epochs=2 and train.max_steps=4 both say how long the run is",
        ),
        (["train.epochs=0"], "train.epochs=0; expected a positive number, or null"),
        (["train.epochs=2", "optim.warmup=9"], "optim.warmup=9; expected a fraction below 1"),
        (["optim.warmup=9"], "optim.warmup=9; expected a fraction below 1, or steps up to train.max_steps=4"),
        (["optim.lr=-1"], "optim.lr=-1; expected a positive number"),
        (["optim.betas=[2,3]"], "optim: Invalid beta parameter at index 0: 2"),
        (["seed=-1"], "seed=-1; expected an integer from 0"),
        (["seed=one"], "seed='one'; expected an integer from 0"),
        (["evaluate=maybe"], "evaluate='maybe'; expected true or false"),
        (["train.threads=-2"], "threads=-2; expected an integer from 0"),
        (
            ["train.precision=int4"],
            "train.precision='int4' is unknown; expected one of auto, 32-true, tf32, bf16",
        ),
        (["train.accelerator=gpus"], "invalid accelerator name"),
        (["train.strategy=fsdp"], "train.strategy=fsdp in stage 1; expected stage=3 alone"),
        (
            ["train.strategy=fsdp", "stage=3"],
            "train.strategy=fsdp scores no image while it trains; expected train.validate_images=0",
        ),
        (["train.strategy=fsdp", "stage=3", "train.validate_images=0", "train.ema=.9"], "fsdp keeps no moving average"),
        (
            ["train.strategy=fsdp", "stage=3", "train.validate_images=0", "loss.prune_probability=.2"],
            "in all processes; expected loss.prune_probability=0",
        ),
        (
            ["train.best=segm/APP"],
            "the 2 tuning images that are scored have no metric 'segm/APP'; expected one of loss, bbox/AP, ",
        ),
        (["train.best=object/segm/AP where fused/mIoU >= bas"], "'fused/mIoU >= bas' is no condition"),
        (["train.strategy=fsdp", "stage=schedule"], "train.strategy=fsdp in stage 1 to 3; expected stage=3 alone"),
        (
            ["train.strategy=fsdp", "stage=3", "train.prompts_at_once=2"],
            "in all processes; use train.prompts_at_once=0",
        ),
        (["train.prompts_at_once=-1"], "train.prompts_at_once=-1; expected an integer from 0"),
        (["train.strategy=fsdp", "stage=3", "hyperet.learn_curvature=true"], "expected hyperet.learn_curvature=false"),
        (["protocol.mask_threshold=2"], "protocol.mask_threshold=2; expected a probability"),
        (["data.num_positives=0", "data.num_negatives=0"], "nothing would be prompted"),
        (["data.format=voc"], "data.format='voc' is unknown; expected one of scenes, coco"),
        (["data.limit=-3"], "data.limit=-3; expected an integer from 0"),
        (["data.flip=2"], "data.flip=2; expected a probability"),
        (["data.views=-1"], "data.views=-1; expected an integer from 0"),
        (["data.annotated=[tiny]"], "data.annotated='tiny' is unknown; expected one of "),
        (["data.splits.train=many"], "data.splits.train='many'; expected the number of images"),
        (["data.zoom=0.5"], "zoom is 0.5, expected 1"),
        (["resume=/nowhere/state.pt"], "resume=/nowhere/state.pt: no such file"),
    ],
)
def test_values(fails, arguments, message):
    assert message in fails(*arguments)


def test_folders_and_files(fails, coco, tmp_path):
    missing = tmp_path / "nowhere"
    for name in ("coco", "ade20k", "camvid"):
        error = fails(f"data={name}", f"paths.{name}={missing}")
        assert f"{missing}: no such folder; expected data set {name} there, or its place as data.root=" in error

    broken = tmp_path / "coco"
    shutil.copytree(coco, broken)
    file = broken / "annotations" / "instances_train2017.json"
    whole = json.loads(file.read_text())
    file.write_text(file.read_text()[:500])
    assert "instances_train2017.json: not valid JSON" in fails("data=coco", f"paths.coco={broken}")
    whole["annotations"][3]["category_id"] = 999
    file.write_text(json.dumps(whole))
    number = whole["annotations"][3]["id"]
    assert f"annotation {number}: its category_id 999 is not" in fails("data=coco", f"paths.coco={broken}")
    whole["annotations"][3]["category_id"] = 1
    whole["categories"][0]["name"] = " ".join(["word"] * 31)
    file.write_text(json.dumps(whole))
    assert "has 31 tokens; SAM 3 reads 30" in fails("data=coco", f"paths.coco={broken}")


def test_a_name_of_the_scored_images_alone_is_checked_before_anything_is_written(fails, coco, tmp_path):
    copied = tmp_path / "coco"
    shutil.copytree(coco, copied)
    file = copied / "annotations" / "instances_val2017.json"
    whole = json.loads(file.read_text())
    whole["categories"][0]["name"] = " ".join(["word"] * 31)
    file.write_text(json.dumps(whole))
    assert "has 31 tokens" in fails("data=coco", f"paths.coco={copied}")


def test_a_data_set_of_one_s_own_is_a_file(coco, tmp_path):
    """As docs/data.md says."""
    configs = tmp_path / "configs"
    shutil.copytree(CONFIGS, configs)
    (configs / "data" / "shop.yaml").write_text(
        f"name: shop\nformat: coco\nroot: {coco}\nsplits: {{train: train2017, val: val2017}}\nflip: 0.5\n"
    )
    options = ["data=shop", "model.checkpoint=random", "train.max_steps=1", "optim.warmup=0", "logger=none"]
    _, config = parse_command("train", [*options, f"run_dir={tmp_path / 'run'}", "protocol.examples=0"], configs)
    assert "shop/segm/AP" in json.loads((train(config) / "metrics.json").read_text())
    with (configs / "data" / "shop.yaml").open("a") as file:
        file.write("zooom: 2\n")
    with pytest.raises(ConfigError, match=r"data.zooom is not an option; expected one of name, format, root"):
        parse_command("train", [*options, f"run_dir={tmp_path / 'other'}"], configs)


def test_too_few_pictures_to_tune_on(fails):
    assert "no image to tune on" in fails("data=coco", "data.limit=1", "data.tune_images=0", "train.validate_every=1")


def test_a_broken_tuning_split_ends_the_run_before_the_model_is_built(fails, coco, scenes, tmp_path):
    """A picture that breaks off; no annotation at all."""
    broken = tmp_path / "coco"
    shutil.copytree(coco, broken)
    for picture in (broken / "train2017").iterdir():
        picture.write_bytes(picture.read_bytes()[:200])
    unread = f"model.checkpoint={broken / 'train2017' / picture.name}"  # it is there, and no base weights
    tuned = ["data.tune_images=1", "train.validate_every=1", unread]
    assert "not a readable image" in fails("data=coco", f"paths.coco={broken}", *tuned)
    bare = tmp_path / "scenes"
    shutil.copytree(scenes, bare)
    file = scenes_folder(bare, 2, seed=0) / "annotations" / "instances_tune.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "annotations": []}))
    assert "instances_tune.json: none of " in fails(f"paths.scenes={bare}", unread)
    assert "/nowhere: no such file" in fails("data=coco", f"paths.coco={broken}", *tuned, "model.checkpoint=/nowhere")


def test_a_picture_that_breaks_off_ends_the_run_in_words(coco, tmp_path, capsys):
    """Only found when it is opened: the run has begun then, but keeps no adapter."""
    broken = tmp_path / "coco"
    shutil.copytree(coco, broken)
    for picture in (broken / "train2017").iterdir():
        picture.write_bytes(picture.read_bytes()[:200])
    options = ["data=coco", f"paths.coco={broken}", "train.max_steps=20", "data.tune_images=0", "logger=none"]
    with pytest.raises(SystemExit):
        exit_cleanly(main)([*options, "model.checkpoint=random", f"run_dir={tmp_path / 'run'}"])
    error = capsys.readouterr().err
    assert "not a readable image" in error
    assert "`sam3-hyperet prepare` opens every file and names all that are broken" in error
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {
        ".sam3_hyperet.json",
        "config.yaml",
        "versions.json",
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "tiny", "weights": "x"}, "model.weights is not an option; expected one of name, checkpoint"),
        ({"name": "tiny", "seed": "one"}, "model.seed='one'; expected an integer"),
        ({"name": "of_run"}, "model 'of_run' is unknown"),
        ("tiny", "model='tiny'; expected options by name"),
    ],
)
def test_a_model_of_a_file_with_mistakes(values, message):
    with pytest.raises(ConfigError, match=message):
        open_model(values)


def test_a_model_is_built_as_described():
    model = open_model({"name": "tiny", "checkpoint": "random", "resolution": 64, "seed": 3})
    same = open_model({"checkpoint": "random", "resolution": 64, "seed": 3})
    assert all((a == b).all() for a, b in zip(model.parameters(), same.parameters(), strict=True))


def test_what_was_loaded_is_printed_in_one_line(tmp_path, capsys):
    base = open_model({"checkpoint": "random"})
    assert capsys.readouterr().out == ""
    save_base(base, tmp_path / "base.safetensors")
    open_model({"checkpoint": str(tmp_path / "base.safetensors")})
    count = len(list(base.parameters()))
    assert capsys.readouterr().out == f"{tmp_path / 'base.safetensors'}: {count} of {count} base weights loaded\n"
    assert not logging.getLogger("sam3_hyperet.modeling.checkpoint").handlers


def test_picture_of_another_size_than_its_annotations(coco, tmp_path, capsys):
    wrong = tmp_path / "coco"
    shutil.copytree(coco, wrong)
    for picture in (wrong / "train2017").iterdir():
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(Path(picture))
    options = ["data=coco", f"paths.coco={wrong}", "train.max_steps=20", "data.tune_images=0", "logger=none"]
    with pytest.raises(SystemExit):
        exit_cleanly(main)([*options, "model.checkpoint=random", f"run_dir={tmp_path / 'run'}"])
    assert "is 64x64 pixels, its annotations are for 128x128" in capsys.readouterr().err


def test_passes_share_the_trunk_also_where_memory_runs_out_later(scenes, tmp_path, monkeypatch):
    class Entered(Exception):
        pass

    def encoding(models):
        raise Entered

    monkeypatch.setattr("sam3_hyperet.cli.train.shared_encoding", encoding)
    options = ["model.checkpoint=random", "experiment=smoke", f"paths.scenes={scenes}", "train.validate_every=0"]
    splits = ["data.splits.train=2", "data.splits.tune=2", "data.splits.val=2", "evaluate=false"]
    one_pass = ["train.memory=auto", "train.prompts_at_once=0", "train.checkpoint_activations=false"]
    with pytest.raises(Entered):
        main([*options, *splits, *one_pass, f"run_dir={tmp_path / 'run'}"])
