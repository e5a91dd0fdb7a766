"""`data=auto data.root=DIR` and nothing else: the numbers of a run are those of the same images in COCO's tree."""

from __future__ import annotations

import json
import shutil

import pytest
from export_pictures import SPLITS
from exports import EXPORTS

from sam3_hyperet.cli.evaluate import main as evaluate
from sam3_hyperet.cli.predict import main as predict
from sam3_hyperet.cli.train import main as train

QUICK = ["protocol.examples=0", "protocol.bootstrap=0"]
COST = ("speed", "seconds")


def numbers(metrics):
    return {
        key: value
        for key, value in metrics.items()
        if isinstance(value, int | float) and not any(part in key for part in COST)
    }


def test_a_recognised_set_is_trained_and_scored_as_in_cocos_tree(tmp_path, tiny_model, read_metrics):
    root, tree = EXPORTS["CVAT"](tmp_path / "shop"), tmp_path / "coco"
    shutil.copytree(root / "images" / "default", tree / "train")
    (tree / "annotations").mkdir()
    shutil.copy(root / "annotations" / "instances_default.json", tree / "annotations" / "instances_train.json")
    short = ["train.max_steps=2", "optim.warmup=0", "train.workers=0", "logger=none", *QUICK, *tiny_model]
    ours = train(["data=auto", f"data.root={root}", *short, f"run_dir={tmp_path / 'ours'}"])
    coco = ["data=coco", f"data.root={tree}", "data.splits={train: train}", "data.name=shop"]
    theirs = train([*coco, *short, f"run_dir={tmp_path / 'theirs'}"])
    assert numbers(read_metrics(ours)) == numbers(read_metrics(theirs))
    again = evaluate([f"run={ours}", *QUICK, f"run_dir={tmp_path / 'again'}"])
    assert read_metrics(again)["shop/segm/AP"] == read_metrics(ours)["shop/segm/AP"]
    image = root / "images" / "default" / "0006.png"
    found = predict([f"run={ours}", f"images={image}", "prompts=car,dog", f"run_dir={tmp_path / 'found'}"])
    assert json.loads((found / "predictions.json").read_text())


@pytest.fixture(scope="module")
def scored(tmp_path_factory, tiny_model, read_metrics):
    """A function from data options to the base's metrics."""

    def score(*data):
        run_dir = tmp_path_factory.mktemp("scored") / "run"
        return numbers(read_metrics(evaluate([*data, "data.name=shop", *QUICK, *tiny_model, f"run_dir={run_dir}"])))

    return score


@pytest.fixture(scope="module")
def in_cocos_tree(tmp_path_factory, scored):
    root = EXPORTS["COCO"](tmp_path_factory.mktemp("coco") / "shop")
    return scored("data=coco", f"data.root={root}", "data.splits={val: test}", "protocol.granularity=false")


@pytest.mark.parametrize("layout", ["Roboflow", "SA-Co", "YOLO", "masks of CVAT"])
def test_a_recognised_set_is_scored_as_in_cocos_tree(layout, tmp_path, scored, in_cocos_tree):
    root = EXPORTS[layout](tmp_path / "shop")
    if layout == "masks of CVAT":  # as a project with subsets has it
        names = "\n".join(picture.stem for picture in SPLITS["val"])
        (root / "ImageSets" / "Segmentation" / "val.txt").write_text(names)
    found = scored("data=auto", f"data.root={root}", "protocol.granularity=false")
    assert in_cocos_tree.items() <= found.items()
    assert found["shop/bbox/AP"] > 0
