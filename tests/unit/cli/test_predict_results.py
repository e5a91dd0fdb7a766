"""`predict`'s COCO results: whose ids they have, in which frame they are, and that they never lie in memory at once."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

from sam3_hyperet.cli import predict, predict_models, predict_records
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.masks import decode

BOX = torch.tensor([[0.25, 0.0, 0.75, 0.5], [-0.5, 0.0, 0.5, 1.0]])
TURNED = 6  # EXIF's orientation of a picture that lies on its side


class LeftHalf:
    """Finds in each image its left half, as often as there are prompts."""

    def __init__(self, model, vocabulary, *_, **__) -> None:
        self.model, self.vocabulary, self.precision, self.device = model, vocabulary, "32-true", torch.device("cpu")
        self.resolution = 0

    def predict(self, image, prompts, exemplars):
        logits = torch.full((2, 4, 4), -9.0)
        logits[:, :, :2] = 9.0
        for _ in prompts:
            yield PromptPrediction(torch.tensor([0.9, 0.6]), BOX, logits, logits[0], 1.0)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the tool with `LeftHalf` in place of a model; returns its folder."""
    monkeypatch.setattr(predict_models, "Predictor", LeftHalf)
    monkeypatch.setattr(predict_models, "open_described", lambda *_: nn.Module())
    monkeypatch.setattr(predict_models, "resolution", lambda model: 0)
    facts = [{"base": "", "adapter": None, "device": "cpu"}]
    monkeypatch.setattr(predict_records, "model_facts", lambda models: facts)
    return lambda *arguments: predict.main([*arguments, f"run_dir={tmp_path / 'out'}"])


@pytest.fixture
def photos(tmp_path):
    """Three images of 40x20; the last lies on its side by its EXIF orientation."""
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = TURNED
    for name, options in (("a.png", {}), ("b.png", {}), ("c.jpg", {"exif": exif})):
        Image.new("RGB", (40, 20), "red").save(folder / name, **options)
    return folder


@pytest.fixture
def test_images(tmp_path):
    """A COCO file without annotations, as those of a challenge are; its ids are in no order."""
    names = {20: "b.png", 7: "c.jpg", 9: "a.png"}
    images = [{"id": number, "file_name": name, "width": 40, "height": 20} for number, name in names.items()]
    categories = [{"id": 18, "name": "dog"}, {"id": 3, "name": "traffic_light"}]
    (tmp_path / "test.json").write_text(json.dumps({"images": images, "categories": categories}))
    return tmp_path / "test.json"


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_ids_are_numbers_where_there_is_no_annotation_file(run, photos):
    folder = run(f"images={photos}", "prompts=dog,red car")
    results, listing = read(folder, "results.json"), read(folder, "images.json")
    assert [one["id"] for one in listing["images"]] == [1, 2, 3]
    assert listing["categories"] == [{"id": 1, "name": "dog"}, {"id": 2, "name": "red car"}]
    assert len(results) == 3 * 2 * 2
    first, second = results[:2]
    assert first.keys() == {"image_id", "category_id", "bbox", "segmentation", "score"}
    assert (first["image_id"], first["category_id"], first["bbox"]) == (1, 1, [10.0, 0.0, 20.0, 10.0])
    assert second["bbox"] == [-20.0, 0.0, 40.0, 20.0]  # SAM 3's own, beyond the image
    assert first["score"] == pytest.approx(0.9)
    assert decode(first["segmentation"])[:, :20].all()
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(str(folder / "images.json")).loadRes(str(folder / "results.json"))
    assert len(loaded.anns) == len(results)
    assert [one["image_id"] for one in read(folder, "predictions.json")["pictures"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "kept", "said"),
    [
        (["score_threshold=0"], 100, 100),  # of 200 queries: AP ranks no more
        (["score_threshold=0", "max_dets=150"], 150, 150),
        (["score_threshold=0", "max_dets=1"], 2, 1),  # those from .5 are always there, as cgF1 counts them
        (["score_threshold=0.005"], 200, None),
        (["score_threshold=0.005", "max_dets=7"], 7, 7),
    ],
)
def test_so_many_detections_of_a_prompt_are_kept(run, photos, monkeypatch, arguments, kept, said):
    scores = torch.cat([torch.tensor([0.9, 0.6]), torch.linspace(0.4, 0.01, 198)])
    logits = torch.full((1, 4, 4), 9.0)
    boxes = BOX[:1].expand(200, 4)
    found = PromptPrediction(scores, boxes, logits.expand(200, 4, 4), logits[0], 1.0)
    monkeypatch.setattr(LeftHalf, "predict", lambda self, image, prompts, exemplars: [found])
    folder = run(f"images={photos}/a.png", "prompts=dog", "overlays=false", *arguments)
    results = read(folder, "results.json")
    assert [one["score"] for one in results] == pytest.approx(scores[:kept].tolist())
    assert read(folder, "predictions.json").get("max_dets") == said


def test_photographs_are_predicted_upright(run, photos):
    folder = run(f"images={photos}", "prompts=dog")
    assert [(one["width"], one["height"]) for one in read(folder, "images.json")["images"]][1:] == [(40, 20), (20, 40)]
    assert read(folder, "results.json")[-1]["segmentation"]["size"] == [40, 20]


def test_ids_and_frame_are_those_of_an_annotation_file(run, photos, test_images, capsys):
    folder = run(f"images={photos}", f"annotations={test_images}", "overlays=false")
    results = read(folder, "results.json")
    assert [one["image_id"] for one in results[::4]] == [20, 7, 9]
    assert [one["category_id"] for one in results[:4]] == [18, 18, 3, 3]
    assert {tuple(one["segmentation"]["size"]) for one in results} == {(20, 40)}  # as stored
    assert [one["id"] for one in read(folder, "images.json")["images"]] == [20, 7, 9]
    assert not list(folder.glob("*.png"))
    said = " ".join(capsys.readouterr().out.split())
    assert "c.jpg: dog 2, traffic light 2" in said
    assert f"results.json (ids of {test_images})" in said


def test_categories_are_called_as_in_training(run, photos, test_images, tmp_path, capsys):
    """With the ids of the file; names of the run's files that this one lacks do not matter."""
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "adapter.safetensors").touch()
    data = {"renamed": {"dog": "hound", "zebra": "striped horse", "light": "lamp"}, "parts": "{object} {part}"}
    (trained / "config.yaml").write_text(json.dumps({"model": {"name": "tiny"}, "data": data}))
    folder = run(f"images={photos}", f"annotations={test_images}", "overlays=false", f"run={trained}")
    assert {one["category_id"] for one in read(folder, "results.json")} == {18, 3}
    names = {one["id"]: one["name"] for one in read(folder, "images.json")["categories"]}
    assert names == {18: "hound", 3: "lamp of a traffic"}
    said = " ".join(capsys.readouterr().out.split())
    assert "2 categories asked for as in training: 'dog' as 'hound', 'traffic light' as 'lamp of a traffic'" in said
    assert "c.jpg: hound 2, lamp of a traffic 2" in said


def test_some_categories_of_an_annotation_file(run, photos, test_images):
    folder = run(f"images={photos}", f"annotations={test_images}", "prompts=Traffic_Light")
    assert {one["category_id"] for one in read(folder, "results.json")} == {3}
    with pytest.raises(ConfigError, match=r"prompts=cat: no category of .*, which has dog, traffic light"):
        run(f"images={photos}", f"annotations={test_images}", "prompts=dog,cat")


def test_annotations_of_turned_images(run, photos, test_images):
    """With exif=apply the sizes in the file have to be those of the turned images."""
    with pytest.raises(DataError, match=r"c.jpg: image 7 is 20x40 pixels, its annotations are for 40x20"):
        run(f"images={photos}", f"annotations={test_images}", "exif=apply")
    content = json.loads(test_images.read_text())
    content["images"][1] |= {"width": 20, "height": 40}
    test_images.write_text(json.dumps(content))
    folder = run(f"images={photos}", f"annotations={test_images}", "exif=apply")
    assert read(folder, "results.json")[4]["segmentation"]["size"] == [40, 20]


def test_what_does_not_fit_is_said_before_anything_is_written(run, photos, test_images, tmp_path):
    with pytest.raises(ConfigError, match=r"needs prompts=…, or annotations=FILE"):
        run(f"images={photos}")
    with pytest.raises(ConfigError, match="expected one COCO file and the one folder"):
        run(f"images={photos / 'a.png'}", f"annotations={test_images}")
    (photos / "a.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images are not in .*: a.png \(image 9\)"):
        run(f"images={photos}", f"annotations={test_images}")
    assert not (tmp_path / "out").exists()


def test_of_many_prompts_those_that_found_something_are_printed(run, photos, capsys):
    prompts = [f"thing {n}" for n in range(12)]
    run(f"images={photos / 'a.png'}", f"prompts=[{','.join(prompts)}]", "score_threshold=0.95", "overlays=false")
    assert "a.png: nothing\n" in capsys.readouterr().out
    run(f"images={photos / 'a.png'}", f"prompts=[{','.join(prompts)}]", "overlays=false")
    assert "a.png: thing 0 2, thing 1 2, " in (said := capsys.readouterr().out)
    assert "thing 9 2 and 2 more\n" in said


def test_results_are_written_image_by_image_and_appear_whole(run, photos, monkeypatch, tmp_path):
    out, seen = tmp_path / "out", []
    original = predict_records.PredictionRecords.read

    def watched(*arguments):
        assert not (out / "results.json").exists()
        seen.append(max((path.stat().st_size for path in out.glob(".results.json*")), default=0))
        if len(seen) == 30:
            raise DataError("broken")
        return original(*arguments)

    monkeypatch.setattr(predict_records.PredictionRecords, "read", watched)
    for number in range(60):
        Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(photos / f"{number}.png")
    with pytest.raises(DataError, match="broken"):
        run(f"images={photos}", "prompts=dog,cat,car,house", "overlays=false")
    assert seen[-1] > 0
    assert not (out / "results.json").exists()
    assert not list(out.glob(".results.json*"))
