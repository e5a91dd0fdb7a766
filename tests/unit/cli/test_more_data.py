"""Several data sets in one run: how they are given, what is opened, and what stays of each set's own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import islice

import pytest
import torch
from noise_tree import write_noise_tree
from omegaconf import OmegaConf

from sam3_hyperet.cli import training_data
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.recognition import recognised
from sam3_hyperet.cli.run_options import read_run
from sam3_hyperet.cli.training_data import calibration_remark, concept_prompts, open_data, validation_remark, views
from sam3_hyperet.data.notes import data_notes
from sam3_hyperet.data.sources import open_split
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.training.batches import training_batches
from sam3_hyperet.training.options import TrainOptions


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A folder of six images with boxes and no masks, two of them in `val`."""
    root = tmp_path_factory.mktemp("more") / "shop"
    categories = [{"id": 1, "name": "apple"}, {"id": 2, "name": "tin"}]
    write_noise_tree(root, categories, {"train": 4, "val": 2}, (64, 96), [8, 8, 40, 8, 40, 40])
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            annotation.pop("segmentation", None)
        file.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    return [f"paths.scenes={root}", "data.splits={train: 6, tune: 2, val: 2}", "train.batch_size=2"]


def options_of(*arguments):
    config = parse_command("train", list(arguments))[1]
    return read_run(OmegaConf.to_container(config, resolve=True))


def test_a_set_is_a_choice_a_file_or_options(tmp_path, shop):
    file = tmp_path / "shop.yaml"
    file.write_text("format: coco\nroot: /data/shop\nsplits: {train: train}\nweight: 3\n")
    experiment = tmp_path / "mix.yaml"
    experiment.write_text(f"more_data: {{own: {file}, again: {{name: b, format: coco, root: /b, splits: {{}}}}}}\n")
    options = options_of(
        f"experiment={experiment}",
        "more_data.coco=coco",
        "paths.coco=/data/coco",
        "more_data.coco.weight=0.5",
        "more_data.open=coco_open_vocabulary",
        "more_data.found=auto",
        "more_data.found.root=/data/found",
    )
    more = options.more_data
    assert list(more) == ["own", "again", "coco", "open", "found"]
    assert (more["own"].name, more["own"].root, more["own"].weight) == ("shop", "/data/shop", 3)
    assert (more["coco"].root, more["coco"].weight, more["coco"].num_positives) == ("/data/coco", 0.5, 3)
    assert (more["open"].root, more["open"].prompts) == ("/data/coco", "ov_base")
    assert (more["found"].format, more["found"].root) == ("auto", "/data/found")
    assert {"more_data.own.weight", "more_data.coco.root"} <= options.deciding.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["more_data.coco=kokko"], "data='kokko' is unknown; expected one of ade20k"),
        (["more_data.coco.weight=2"], "more_data.coco.weight: expected more_data.coco= before it"),
        (["more_data.coco=coco", "more_data.coco.wieght=2"], "more_data.coco.wieght is not an option; expected one of"),
        (["more_data.coco=coco", "paths.coco=/c", "more_data.coco.weight=0"], "weight=0; expected a positive number"),
        (["more_data.a=auto"], "train: needs more_data.a.root=… "),
        (["more_data=3"], "more_data=3; expected data sets by name"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ConfigError) as raised:
        options_of(*arguments)
    assert message in str(raised.value)


def test_each_set_keeps_its_own_names_and_annotations(scenes, shop):
    """Boxes beside masks, too: of a box no semantic map is learnt, of the others' all."""
    given = [f"more_data.shop.root={shop}", "more_data.shop.boxes=instances", "more_data.shop.weight=0.5"]
    config = parse_command("train", [*scenes, "more_data.shop=auto", *given, "train.validate_every=1"])[1]
    config = recognised(config, lambda _: None)
    assert config.more_data.shop.format == "coco"
    options = read_run(OmegaConf.to_container(config, resolve=True))
    data = open_data(options, tune=True)
    said: list[str] = []
    training, tuning = concept_prompts(data, options, 64, said.append)
    assert [len(part) for part in training.parts] == [6, 4]
    assert training.quotas == (667, 333)
    assert data.images_an_epoch == pytest.approx(9, rel=1e-2)
    assert views(training, tuning) == 0
    assert sum("annotations are boxes without a mask" in line for line in said) == 1
    assert [line for line in said if line.startswith("tuning images: scenes: 2 images")]
    lines = list(data.share_lines(300))
    assert lines == [
        "data: 66.7% of all images are of scenes; its 6 are seen 33 times each",
        "more_data.shop: 33.3% of all images are of shop; its 4 are seen 25 times each",
    ]
    names = {"apple", "tin"}
    seen = set()
    for batch in islice(training_batches(training, 2, seed=1), 10):
        (stage,), (target,) = batch.find_inputs, batch.find_targets
        for image in range(len(batch.img_batch)):
            prompts = [batch.find_text_batch[t] for t in stage.text_ids[stage.img_ids == image].tolist()]
            assert set(prompts) <= names or not names.intersection(prompts)
            of_boxes = bool(names.intersection(prompts))
            seen.add(of_boxes)
            maps = target.semantic_segments[stage.img_ids == image].flatten(1).any(dim=1)
            present = target.num_boxes[stage.img_ids == image] > 0
            assert torch.equal(maps, present & (not of_boxes))
    assert seen == {False, True}


def test_batches_do_not_depend_on_the_loader_processes(scenes, shop, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(shop, copy)
    more = f"{{format: coco, name: shop, root: {copy}, splits: {{train: train}}, boxes: instances, tune_images: 0}}"
    options = options_of(*scenes, f"more_data.shop={more}", "more_data.shop.validation_fraction=0")
    training, _ = concept_prompts(open_data(options, tune=False), options, 32, lambda _: None)
    alone, loaded = ([b.img_batch for b in islice(training_batches(training, 3, workers=n), 6)] for n in (0, 2))
    assert all(torch.equal(one, other) for one, other in zip(alone, loaded, strict=True))
    resumed = next(training_batches(training, 3, step=4)).img_batch
    assert torch.equal(resumed, alone[4])


def test_notes_are_made_once_of_each_split(scenes, monkeypatch):
    noted = []
    monkeypatch.setattr(training_data, "data_notes", lambda images: noted.append(images) or data_notes(images))
    options = options_of(*scenes)
    data = open_data(options, tune=True)
    concept_prompts(data, options, 64, lambda _: None)
    assert noted == [data.splits.training, data.splits.tuning.images]


def test_a_cascade_that_is_calibrated_on_trained_pictures_is_warned_of(shop):
    splits = ["data.splits={train: train, val: val}", "data.tune_images=1", "data.boxes=instances"]
    options = options_of("data=coco", f"data.root={shop}", *splits)
    calibrating = open_split(options.data, "tune").images
    assert calibration_remark(open_data(options, tune=True), calibrating) == ""
    name = calibrating.image(0).path.name
    remark = calibration_remark(open_data(options, tune=False), calibrating)
    assert f"calibrated on 1 picture of training: {name}; scored images may keep less" in remark


def test_validations_of_more_images_than_training_are_said():
    options = TrainOptions(max_steps=500, batch_size=8, validate_every=50)
    said = validation_remark(options, 2000)
    assert said.startswith(
        "warning: 11 validations of 2,000 tuning images go through 22,000 images, training through 4,000; "
    )
    assert validation_remark(options, 300) == ""
    assert validation_remark(replace(options, max_steps=4), 90) == ""  # it takes no time to speak of
    assert validation_remark(replace(options, validate_every=0), 2000) == ""
