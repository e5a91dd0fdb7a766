"""What comes after training: the same numbers again, other data, the base beside it, and predictions."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam3_hyperet.cli.evaluate import main as evaluate
from sam3_hyperet.cli.predict import main as predict
from sam3_hyperet.cli.train import main as train
from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.evaluation.scoring.coco_ap import score_coco_files
from sam3_hyperet.files import MANIFEST
from sam3_hyperet.masks import decode
from sam3_hyperet.modeling.adapter_file import write_adapter_dial
from sam3_hyperet.scenes.dataset import scenes_folder

pytestmark = pytest.mark.integration
WRITTEN = ("predictions.json", "results.json", "images.json")
TRAINING_ALONE = ("train/", "params/trainable")
SHOWN = ("examples",)  # of the protocol: what is drawn, not what is scored


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """What must not change between two evaluations of one model."""
    kept = {key: value for key, value in metrics.items() if not key.startswith(TRAINING_ALONE) and "speed/" not in key}
    return {**kept, "protocol": {key: value for key, value in metrics["protocol"].items() if key not in SHOWN}}


def assert_same(metrics: dict[str, Any], others: dict[str, Any]) -> None:
    """Equal figures; means of features may round otherwise where their memory lies otherwise."""
    pooled = [key for key in others if "/granularity/" in key or "radius/" in key]
    assert {key: metrics.pop(key) for key in pooled} == pytest.approx(
        {key: others.pop(key) for key in pooled}, rel=1e-5, abs=1e-6, nan_ok=True
    )
    assert metrics == others


@pytest.fixture(scope="module")
def again(trained, tmp_path_factory):
    """`trained`, evaluated once more by its folder."""
    folder = tmp_path_factory.mktemp("again") / "new"
    return evaluate([f"run={trained}", f"run_dir={folder}", "protocol.examples=1"])


@pytest.fixture
def data(scenes):
    """Overrides that name the run's data for tools that know nothing of the run."""
    chosen = [one for one in scenes if one.startswith(("paths.", "data."))]
    return ["data=scenes", *chosen]


def test_a_run_is_evaluated_to_the_same_numbers(trained, again, read_metrics):
    assert_same(figures(read_metrics(again)), figures(read_metrics(trained)))
    products = {"metrics.json", "report.html", "comparison.md", "comparison.tex"}
    assert {path.name for path in again.iterdir()} == {MANIFEST, *products}
    report = (again / "report.html").read_text()
    assert "SHA-256" in report
    assert "name: of_run" not in report  # the configuration is that of what was evaluated
    assert "zoom: 1.5" in report


def test_an_adapter_is_evaluated_to_the_same_numbers(trained, again, data, tiny_model, tmp_path, read_metrics):
    command = [f"adapter={trained / 'adapter.safetensors'}", "model=tiny", *tiny_model, *data, "protocol.examples=0"]
    folder = evaluate([*command, f"run_dir={tmp_path}"])
    assert_same(figures(read_metrics(folder)), figures(read_metrics(again)))


def test_a_run_that_was_dialled_since_says_so(trained, scenes, tmp_path, capsys, read_metrics):
    folder = shutil.copytree(trained, tmp_path / "run")
    write_adapter_dial(folder / "adapter.safetensors", 0.5)
    train([*scenes, "logger=none", f"run_dir={folder}", "protocol.limit=1", "protocol.examples=0"])
    assert "adapted: dial 0.5 (as its file says)\n" in capsys.readouterr().out
    assert read_metrics(folder)["dial"] == 0.5
    assert read_metrics(trained)["dial"] == 1.0


def test_the_adapter_leaves_the_base_alone(again, data, tiny_model, tmp_path, read_metrics):
    command = ["model=tiny", *tiny_model, *data, "protocol.examples=0"]
    metrics = read_metrics(evaluate([*command, f"run_dir={tmp_path}"]))
    beside = read_metrics(again)
    alone = {key: value for key, value in figures(metrics).items() if key.startswith("scenes/")}
    assert len(alone) > 100
    with_base = {key: value for key, value in figures(beside).items() if key.startswith("base/scenes/")}
    assert_same({f"base/{key}": value for key, value in alone.items()}, with_base)
    assert not [key for key in metrics if key.startswith(("base/", "radius/"))]
    assert any(figures(beside)[key] != value for key, value in alone.items())  # the adapter does do something


def test_a_run_that_trained_the_base_too_is_compared_with_where_it_began(scenes, tmp_path, read_metrics):
    """Stage 2: the weights are the run's, the adapter sits on them, and the base is the one before training."""
    once = ["train.max_steps=1", "train.validate_every=0", "evaluate=false"]
    begun = train([*scenes, "scheme=none", "stage=3", *once, f"run_dir={tmp_path / 'begun'}"])
    start = f"model.checkpoint={begun / 'weights.safetensors'}"
    scenes = [one for one in scenes if not one.startswith("model.checkpoint")]
    few = ["protocol.limit=2", "protocol.examples=0"]
    folder = train([*scenes, start, "stage=2", "optim.lr=1e-2", *few, f"run_dir={tmp_path / 'run'}"])
    before = read_metrics(folder)
    assert before["params/added"] < before["params/trainable"] < before["params/total"]
    after = evaluate([f"run={folder}", f"run_dir={tmp_path / 'evaluated'}", *few])
    assert_same(figures(read_metrics(after)), figures(before))
    assert before["scenes/images"] == before["base/scenes/images"] == 2


def test_an_adapter_of_another_base_is_refused(trained, data, tmp_path):
    command = [f"adapter={trained / 'adapter.safetensors'}", "model=tiny", "model.checkpoint=random", "model.seed=1"]
    with pytest.raises(CheckpointError, match=r"adapter.safetensors: made for the base .*, this model's is"):
        evaluate([*command, *data, f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_predictions_are_overlays_and_one_file(trained, tiny_model, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0)
    for name, (height, width) in (("a.jpg", (40, 60)), ("a.png", (30, 20)), ("b.PNG", (64, 64))):
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(pictures / name)
    (pictures / "notes.txt").write_text("no picture")
    command = ["prompts=[car,red wheel]", *tiny_model, f"adapter={trained / 'adapter.safetensors'}"]
    folder = predict([f"images={pictures}", *command, "score_threshold=0", f"run_dir={tmp_path / 'out'}"])
    assert {path.name for path in folder.iterdir()} == {"a.png", "a-2.png", "b.png", "index.html", *WRITTEN, MANIFEST}
    content = json.loads((folder / "predictions.json").read_text(), parse_constant=pytest.fail)
    assert [Path(one["file"]).name for one in content["pictures"]] == ["a.jpg", "a.png", "b.PNG"]
    for record in content["pictures"]:
        with Image.open(folder / record["overlay"]) as overlay, Image.open(record["file"]) as picture:
            assert picture.size == (record["width"], record["height"])
            assert max(overlay.size) > 640  # enlarged, and the base stands beside the adapted model
        assert [answer["prompt"] for answer in record["prompts"]] == ["car", "red wheel"]
        for answer in record["prompts"]:
            scores = [found["score"] for found in answer["detections"]]
            assert len(scores) == 12  # every query: nothing is below 0
            assert scores == sorted(scores, reverse=True)
            assert max(scores) <= answer["presence"] <= 1
            for found in answer["detections"]:
                assert decode(found["segmentation"]).shape == (record["height"], record["width"])
                x0, y0, x1, y1 = found["box_xyxy"]
                assert x0 <= x1  # a box is SAM 3's own: its centre is in the image, its sides need not be
                assert y0 <= y1
                assert 0 <= (x0 + x1) / 2 <= record["width"]
                assert 0 <= (y0 + y1) / 2 <= record["height"]


def test_the_score_threshold_is_the_score_s_own(tiny_model, tmp_path):
    """A detection is kept where σ(logit)·σ(presence) reaches it, and the file says so."""
    picture = tmp_path / "one.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (50, 50, 3), dtype=np.uint8)).save(picture)
    command = [f"images={picture}", "prompts=car", *tiny_model]

    def scores(threshold: float) -> list[float]:
        folder = predict([*command, f"score_threshold={threshold}", f"run_dir={tmp_path / str(threshold)}"])
        content = json.loads((folder / "predictions.json").read_text())
        assert content["score_threshold"] == threshold
        (record,) = content["pictures"]
        return [found["score"] for found in record["prompts"][0]["detections"]]

    every = scores(0)
    threshold = (every[3] + every[4]) / 2
    assert every[3] > threshold > every[4]
    assert scores(threshold) == every[:4]


def test_coco_results_score_as_the_evaluation_does(trained, again, scenes, tmp_path, read_metrics):
    """By our own scoring of files and by pycocotools, which knows nothing of us."""
    root = scenes_folder(Path(next(one for one in scenes if one.startswith("paths.scenes=")).partition("=")[2]), 3, 0)
    truth = root / "annotations" / "instances_val.json"
    asked = [f"run={trained}", f"images={root / 'val' / 'images'}", f"annotations={truth}", "score_threshold=0"]
    folder = predict([*asked, "overlays=false", f"run_dir={tmp_path / 'out'}"])
    assert {path.name for path in folder.iterdir()} == {*WRITTEN, MANIFEST}
    metrics = {key.removeprefix("scenes/"): value for key, value in read_metrics(again).items()}
    found = score_coco_files(truth, folder / "results.json")
    keys = [key for key in found if key.startswith(("segm/", "bbox/")) and "/AP/" not in key]
    assert len(keys) > 20
    assert {key: found[key] for key in keys} == pytest.approx({key: metrics[key] for key in keys}, abs=1e-9)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(truth))
        results = reference.loadRes(str(folder / "results.json"))
        COCO(str(folder / "images.json")).loadRes(str(folder / "results.json"))
        evaluation = COCOeval(reference, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[:2].tolist() == pytest.approx([metrics["bbox/AP"], metrics["bbox/AP50"]], abs=1e-9)
