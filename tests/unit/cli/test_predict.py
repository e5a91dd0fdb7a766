"""The likeliest mistakes at `tools/predict.py` end in one clear line and leave nothing behind."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.cli.predict import _predict, find_images, main
from sam3_hyperet.errors import DataError
from sam3_hyperet.inference.prediction import PromptPrediction


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def fails(pictures, tmp_path, capsys):
    """A function that runs the tool to its error, which it returns; checks that nothing was written."""

    def run(*arguments: str, images: object = pictures, prompts: str = "prompts=[car]") -> str:
        folder = tmp_path / "predicted"
        with pytest.raises(SystemExit) as exit_:
            exit_cleanly(main)(
                [f"images={images}", prompts, "model.checkpoint=random", f"run_dir={folder}", *arguments]
            )
        assert exit_.value.code == 1
        said = capsys.readouterr()
        assert said.err.startswith("error: ")
        assert said.err.count("\n") == 1
        assert not folder.exists()
        return said.err

    return run


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("prompts=[]", "there is no prompt; expected one noun phrase or more"),
        ("prompts=['']", "the prompt '' is empty"),
        ("prompts=[car,' ']", "the prompt ' ' is empty"),
        ("prompts=''", "the prompt '' is empty"),
        ("prompts=[null]", "prompts has a null"),
        (f"prompts=[{'word ' * 35}]", "has 35 tokens; SAM 3 reads 30 and drops the rest"),
        ("prompts=???", "predict: needs prompts=…"),
        ("prompt=[car]", "did you mean prompts?"),
    ],
)
def test_prompts(fails, prompts, message):
    assert message in fails(prompts=prompts)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("score_threshold=1.5", "score_threshold=1.5; expected a probability"),
        ("mask_threshold=half", "mask_threshold=half; expected a probability"),
        ("prompts_at_once=-1", "prompts_at_once=-1; expected an integer from 0"),
        ("adapter=/nowhere/adapter.safetensors", "/nowhere/adapter.safetensors: no such file"),
        ("model=medium", "model='medium' is unknown; expected one of large, tiny"),
        ("model.width=3", "model.width is not an option; expected one of name, checkpoint"),
        ("device=gpu", "device=gpu; expected auto, cpu or cuda"),
    ],
)
def test_options(fails, argument, message):
    assert message in fails(argument)


def test_pictures_that_are_not_there_or_cannot_be_read(fails, pictures, tmp_path):
    assert "nowhere.png: no such picture or folder" in fails(images=tmp_path / "nowhere.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no pictures in this folder; expected files ending in .jpg" in fails(images=empty)
    (pictures / "2.png").write_bytes((pictures / "0.png").read_bytes()[:99])
    assert "2.png: not a readable picture" in fails()  # said before the readable ones are predicted


def test_every_picture_is_found_once_with_a_name_of_its_own(pictures, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (pictures / "0.png").rename(other / "1.JPG")
    images = OmegaConf.create([str(pictures), str(other), str(other / "1.JPG")])
    assert find_images(images) == {pictures / "1.png": "1.png", other / "1.JPG": "1-2.png"}
    assert find_images(str(other / "1.JPG")) == {other / "1.JPG": "1.png"}
    with pytest.raises(DataError, match="no such picture or folder"):
        find_images(OmegaConf.create([str(pictures), "nowhere"]))


def test_boxes_are_sam_3_s_own(tmp_path):
    """One that reaches beyond the image is written as it is."""
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    box = torch.tensor([[-0.25, 0.0, 0.5, 1.5]])
    found = PromptPrediction(torch.tensor([0.9]), box, torch.ones(1, 4, 4), torch.ones(4, 4), 1.0)
    predictor = SimpleNamespace(vocabulary=("car",), predict=lambda image: [found])
    config = SimpleNamespace(score_threshold=0.5, mask_threshold=0.5)
    entry, _ = _predict(predictor, tmp_path / "a.png", config)
    assert entry["prompts"][0]["detections"][0]["box_xyxy"] == [-10.0, 0.0, 20.0, 30.0]
