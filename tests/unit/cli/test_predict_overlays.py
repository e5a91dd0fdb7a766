"""`predict`'s overlays: base beside adapted, one colour a phrase, exemplars, sizes, masks, and the folder's page."""

from __future__ import annotations

import contextlib
import json
import re
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sam3_hyperet.cli import predict, predict_files, predict_models, predict_records
from sam3_hyperet.cli.predict_overlays import Overlays
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.masks import decode
from sam3_hyperet.overlays.colors import color


class Found:
    """Finds the left half of an image for every prompt; at dial 0 only for the first one."""

    def __init__(self, model, vocabulary, *_, **__) -> None:
        self.model, self.vocabulary, self.precision, self.device = model, vocabulary, "32-true", torch.device("cpu")
        self.resolution = 0

    def predict(self, image, prompts, exemplars):
        logits = torch.full((1, 4, 4), -9.0)
        logits[:, :, :2] = 9.0
        for number in prompts:
            score = 0.9 if number == 0 or self.model.dial else 0.1
            yield PromptPrediction(torch.tensor([score]), torch.tensor([[0.0, 0, 0.5, 1]]), logits, logits[0], 1.0)


def at_dial(model, dial):
    copy = nn.Module()
    copy.dial = dial
    return copy


ALONE = ["base_beside=false"]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the tool with `Found` in place of a model; returns its folder."""
    monkeypatch.setattr(predict_models, "Predictor", Found)
    monkeypatch.setattr(predict, "described", lambda config: ({}, config.adapter))
    monkeypatch.setattr(predict, "check_opening", lambda *_: None)
    monkeypatch.setattr(predict_models, "open_described", lambda config, *_: at_dial(None, config.dial or 1.0))
    monkeypatch.setattr(predict_models, "resolution", lambda model: 0)
    monkeypatch.setattr(predict_models, "at_dial", at_dial)
    for module in (predict_files, predict_models, predict_records):
        monkeypatch.setattr(module, "dial_of", lambda model: model.dial)
    monkeypatch.setattr(predict_records, "model_facts", lambda models: [{"base": "", "adapter": "", "device": "cpu"}])
    monkeypatch.setattr(predict_models, "shared_encoding", lambda models, inputs: contextlib.nullcontext())
    return lambda *arguments: predict.main([*arguments, f"run_dir={tmp_path / 'out'}"])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (64, 48), "grey").save(folder / "a #1.png")
    Image.new("RGB", (1300, 700), "grey").save(folder / "b.png")
    return folder


def drawn(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def shares(pixels: np.ndarray, number: int) -> float:
    """How much of an image has the tint of a colour on grey."""
    tint = (np.array(color(number)) + 128) / 2
    return float((np.abs(pixels.astype(float) - tint).max(axis=2) <= 1).mean())


def test_the_base_stands_beside_an_adapted_model_in_the_same_colours(run, photos, capsys):
    folder = run(f"images={photos}", "prompts=dog,red car", "adapter=one.safetensors", "dial=.5", "overlay_side=1000")
    said = capsys.readouterr().out
    assert "base beside the adapted model in the overlays: every prompt is asked twice" in said
    assert "b.png: dog 1, red car 1 (base: dog 1, red car 0)" in said
    assert "1 overlay drawn enlarged, to 640 pixels a side" in said
    assert "1 overlay drawn reduced, to 1000 pixels a side (overlay_side=0: as large as the images)" in said
    pixels = drawn(folder / "a #1.png")
    half = pixels.shape[1] // 2
    assert half > 640
    base, adapted = pixels[30:450, :half], pixels[30:450, half:]
    assert shares(base, 0) > 0.4
    assert shares(adapted, 1) > 0.4  # the second of two equal masks is on top
    assert shares(base, 1) == 0
    assert drawn(folder / "b.png").shape[1] == 1000  # wide ones stand below each other
    pages = (folder / "index.html").read_text()
    assert "dog 1 → 1" in pages
    assert "Numbers are instances, base → adapted, dial 0.5." in pages
    assert "red car 0 → 1" in pages
    assert pages.count("adapted, dial 0.5</figcaption>") == 2
    found = json.loads((folder / "predictions.json").read_text())["pictures"][0]["prompts"]
    assert [len(one["detections"]) for one in found] == [1, 1]  # the files have the adapted model's alone


def test_one_model_has_one_panel(run, photos):
    for options in ([], ["adapter=one.safetensors", "base_beside=false"]):
        folder = run(f"images={photos}", "prompts=dog", *options)
        assert drawn(folder / "a #1.png").shape[1] == 640
        assert "<figcaption>" not in (folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["base_beside=true"], "base_beside=true: there is no adapter; expected adapter=FILE"),
        (["base_beside=true", "adapter=a", "overlays=false"], "with overlays=false: nothing is drawn"),
        (["base_beside=true", "adapter=a", "dial=0"], "with dial=0, which is the base; expected another dial"),
        (["overlay_side=100"], "overlay_side=100; expected 0, or pixels from 640"),
    ],
)
def test_options_that_contradict_each_other(run, photos, options, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)):
        run(f"images={photos}", "prompts=dog", *options)
    assert not (tmp_path / "out").exists()


def test_of_many_phrases_those_that_are_found_are_held(run, photos, monkeypatch):
    held = []
    write_page = Overlays.write_page

    def seen(self, title, facts, drawn, *rest):
        held.extend(one.picture.found for one in drawn)
        write_page(self, title, facts, drawn, *rest)

    monkeypatch.setattr(Overlays, "write_page", seen)
    monkeypatch.setattr(predict_models, "open_described", lambda *_: at_dial(None, 0))  # which finds the first alone
    folder = run(f"images={photos}", "prompts=dog,cat")
    assert [[one.phrase for one in found] for found in held] == [["dog"]] * len(held)
    assert re.findall(r"</span>(dog|cat) (\d)</li>", (folder / "index.html").read_text())[:2] == [
        ("dog", "2"),
        ("cat", "0"),
    ]


def test_exemplars_are_drawn_and_in_the_legend(run, photos, tmp_path):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a #1.png": [{"prompt": "cat", "box": [40, 8, 16, 16]}]}))
    folder = run(f"images={photos}", "prompts=dog", f"exemplars={boxes}", "score_threshold=.95")
    pixels = drawn(folder / "a #1.png")
    np.testing.assert_array_equal(pixels[160, 400], color(1))  # the left side, ten times as large
    assert "frames: boxes given" in (folder / "index.html").read_text()
    assert (pixels[480:] == color(1)).all(axis=2).any()


def test_the_page_needs_nothing_from_elsewhere_and_tells_nothing_of_the_machine(run, photos):
    adapter = photos / "runs" / "adapter.safetensors"  # the model is a stub
    folder = run(f"images={photos}", "prompts=dog,<b>cat", "score_threshold=.95", f"adapter={adapter}", *ALONE)
    page = (folder / "index.html").read_text()
    assert str(photos.parent) not in page
    assert "<dd>runs/adapter.safetensors</dd>" in page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {unquote(one) for one in addresses} >= {"a #1.png", "b.png", "predictions.json"}
    assert all((folder / unquote(one)).is_file() for one in addresses)
    assert page.count('loading="lazy"') == page.count("<img") == 2
    assert "<b>" not in page
    assert "not found (presence): dog (1.00), &lt;b&gt;cat (1.00)" in page
    assert "<script" not in page


def test_masks_are_written_on_request(run, photos, capsys):
    folder = run(f"images={photos}", "prompts=[dog,'red/car']", "masks=true")
    assert "4 masks, predictions.json" in capsys.readouterr().out
    found = json.loads((folder / "predictions.json").read_text())["pictures"][0]["prompts"]
    names = [one["detections"][0]["mask"] for one in found]
    assert names == ["masks/a #1/dog_1.png", "masks/a #1/red-car_1.png"]
    for name, one in zip(names, found, strict=True):
        with Image.open(folder / name) as image:
            np.testing.assert_array_equal(np.asarray(image), decode(one["detections"][0]["segmentation"]))
    results = json.loads((folder / "results.json").read_text())
    assert results[0].keys() == {"image_id", "category_id", "bbox", "segmentation", "score"}
    run(f"images={photos / 'b.png'}", "prompts=dog", "masks=true", "overlays=false")
    assert [path.name for path in (folder / "masks").iterdir()] == ["b"]  # those of before are gone
