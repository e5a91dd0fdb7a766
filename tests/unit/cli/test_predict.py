"""`predict`: runs, images as they are meant, and mistakes, which end in one clear line and leave nothing behind."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from one_line_errors import error_of
from PIL import Image
from rich.console import Console

import sam3_hyperet as hy
from sam3_hyperet.cli import predict_inputs, progress
from sam3_hyperet.cli.command import parse_command
from sam3_hyperet.cli.predict import main
from sam3_hyperet.cli.predict_inputs import Inputs, find_images, listed_prompts, passed_over, prompts_text, trial_images
from sam3_hyperet.cli.predict_models import found_by
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.files import MANIFEST
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.masks import decode
from sam3_hyperet.modeling.checkpoint import save_base

WRITTEN = ("predictions.json", "results.json", "images.json")


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
        given = [f"images={images}", prompts, "model.checkpoint=random", f"run_dir={folder}", *arguments]
        return error_of(main, given, capsys, folder)[0]

    return run


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ("prompts=[]", "there is no prompt; expected one noun phrase or more"),
        ("prompts=['']", "the prompt '' is empty"),
        ("prompts=[car,' ']", "the prompt ' ' is empty"),
        ("prompts=''", "the prompt '' is empty"),
        ("prompts=[null]", "prompts has a null"),
        ("prompts={a: b}", "prompts={'a': 'b'}; expected noun phrases"),
        ("prompts=[[car]]", "prompts=[['car']]; expected noun phrases"),
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
        ("mask_threshold=half", "mask_threshold='half'; expected a probability"),
        ("prompts_at_once=-1", "prompts_at_once=-1; expected an integer from 0"),
        ("adapter=/nowhere/adapter.safetensors", "/nowhere/adapter.safetensors: no such file"),
        ("model=medium", "model='medium' is unknown; expected one of large, tiny"),
        ("model.width=3", "model.width is not an option; expected one of name, checkpoint"),
        ("tiles=2", "tiles='2'; expected COLUMNSxROWS, such as 3x2, or auto"),
        ("tile_overlap=0", "tile_overlap=0, without which nothing that a seam cuts can be joined"),
        (
            "tiles=2x3",
            "pixels are too few for 2x3 tiles of 16 pixels a side or more; expected tiles=2x1 at most",
        ),
        ("device=tpu", "device='tpu'; expected auto, cpu, cuda, gpu"),
        ("precision=half", "precision='half' is unknown; expected one of auto, 32-true, tf32, bf16-mixed"),
    ],
)
def test_options(fails, argument, message):
    assert message in fails(argument)


@pytest.mark.parametrize(
    ("option", "missing"),
    [
        ("adapter=/nowhere/adapter.safetensors", "/nowhere/adapter.safetensors"),
        ("model.checkpoint=/nowhere/sam3.pt", "/nowhere/sam3.pt"),
        ("device=cuda", "PyTorch finds no CUDA device"),
    ],
)
def test_the_model_s_files_and_device_are_looked_for_before_the_images_are_read(fails, monkeypatch, option, missing):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Inputs, "check", lambda *_: pytest.fail("images were read"))
    assert missing in fails(option)


def test_tiles_are_said_and_written(pictures, tmp_path, capsys):
    asked = [f"images={pictures / '0.png'}", "prompts=car", "model.checkpoint=random", "score_threshold=0"]
    main([*asked, "tiles=2x1", f"run_dir={tmp_path / 'out'}"])
    said = capsys.readouterr().out
    assert "2x1 tiles, 20% overlap: 2 passes of the image encoder and of every prompt an image" in said
    assert "0.png in 2x1 tiles: car" in said
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (found["tiles"], found["tile_overlap"]) == ("2x1", 0.2)
    (prompt,) = found["pictures"][0]["prompts"]
    assert {tuple(one["segmentation"]["size"]) for one in prompt["detections"]} == {(20, 30)}


def test_pictures_that_are_not_there_or_cannot_be_read(fails, pictures, tmp_path):
    assert "nowhere.png: no such image or folder" in fails(images=tmp_path / "nowhere.png")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no images in this folder; expected files ending in .jpg" in fails(images=empty)
    (pictures / "2.png").write_bytes((pictures / "0.png").read_bytes()[:99])
    assert "2.png: not a readable image" in fails()  # said before the readable ones are predicted


def test_a_model_is_checked_on_eight_images_at_most(tmp_path):
    for i in range(20):
        Image.new("L", (3000, 10), i).save(tmp_path / f"{i:02}.png")
    said = []
    found = trial_images(str(tmp_path), said.append)
    assert [image.getpixel((0, 0))[0] for image in found] == [0, 2, 5, 7, 10, 12, 15, 17]
    assert {image.size for image in found} == {(2048, 7)}
    assert said == ["checked on 8 of 20 images, evenly spread"]
    assert len(trial_images([str(tmp_path / "00.png"), str(tmp_path / "01.png")], said.append)) == 2
    assert len(trial_images(None, said.append)) == len(said) == 1


@pytest.mark.parametrize(("fit", "at_once"), [(20, 8), (3, 3), (0.5, 1)])
def test_no_more_images_are_decoded_at_once_than_memory_has_room_for(tmp_path, monkeypatch, capsys, fit, at_once):
    for number in range(12):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{number}.png")
    Image.new("RGB", (60, 50)).save(tmp_path / "largest.png")
    monkeypatch.setattr(predict_inputs, "_CHECK_BYTES", int(fit * 12 * 60 * 50))
    monkeypatch.setattr(progress, "_FIRST_SECONDS", -1)
    pools = []
    pool = lambda threads: pools.append(threads) or ThreadPoolExecutor(threads)  # noqa: E731
    monkeypatch.setattr(predict_inputs, "ThreadPoolExecutor", pool)
    paths = sorted(tmp_path.iterdir())
    assert Inputs(paths, range(13), {}, upright=True).check(Tiling(), Console(soft_wrap=True))[0] == []
    assert pools == [8, at_once]  # for the headers and for the pixels
    assert "1 of 13 images checked, " in capsys.readouterr().out


def test_every_picture_is_found_once_with_a_name_of_its_own(pictures, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (pictures / "0.png").rename(other / "1.JPG")
    images = OmegaConf.create([str(pictures), str(other), str(other / "1.JPG")])
    found = find_images(images)
    assert found == [pictures / "1.png", other / "1.JPG"]
    assert Inputs(found, (1, 2), {}, upright=True).overlays() == ["1.png", "1-2.png"]
    assert find_images(str(other / "1.JPG")) == [other / "1.JPG"]
    with pytest.raises(DataError, match="no such image or folder"):
        find_images(OmegaConf.create([str(pictures), "nowhere"]))


def test_boxes_are_sam_3_s_own():
    """One that reaches beyond the image is written as it is."""
    box = torch.tensor([[-0.25, 0.0, 0.5, 1.5]])
    found = PromptPrediction(torch.tensor([0.9]), box, torch.ones(1, 4, 4), torch.ones(4, 4), 1.0)
    predictor = SimpleNamespace(vocabulary=("car",), predict=lambda image, prompts, exemplars: [found])
    thresholds = {"score_threshold": 0.5, "mask_threshold": 0.9}
    entry = found_by(predictor, Image.new("RGB", (40, 20)), {"car": None}, thresholds)
    (detection,) = entry["prompts"][0]["detections"]
    assert detection["box_xyxy"] == [-10.0, 0.0, 20.0, 30.0]
    assert not decode(detection["segmentation"]).any()  # of a probability of 0.73


@pytest.fixture
def run_folder(another, randomized, tmp_path):
    """A function that writes what is left of a run: its configuration, its adapter and, in stage 2, its weights."""

    def write(*, stage: int):
        folder = tmp_path / f"stage {stage}"
        folder.mkdir()
        model = randomized(hy.inject(another(), hy.HyperETConfig(scheme="P", structure="diagonal")), scale=0.1)
        if stage == 2:
            with torch.no_grad():
                model.dot_prod_scoring.prompt_proj.bias.add_(0.5)
            save_base(model, folder / "weights.safetensors")
        hy.save_adapter(model, folder / "adapter.safetensors")
        values = {"model": {"name": "tiny", "checkpoint": "random", "seed": 0}, "data": {"name": "x"}}
        OmegaConf.save(OmegaConf.create(values), folder / "config.yaml")
        return folder

    return write


@pytest.mark.parametrize("stage", [1, 2])
def test_a_run_is_its_base_with_its_adapter(run_folder, pictures, tmp_path, capsys, stage):
    run = run_folder(stage=stage)
    asked = [f"images={pictures}", "prompts=car, house", "score_threshold=0"]
    one, other = tmp_path / "one", tmp_path / "other"
    main([*asked, f"run={run}", f"run_dir={one}"])
    beside = "without the adapter" if stage == 2 else "base"  # whose weights the run trained as well
    assert f"{beside} beside the adapted model in the overlays" in capsys.readouterr().out
    assert (one / "index.html").read_text().count("<figcaption>adapted</figcaption>") == 2
    weights = run / "weights.safetensors" if stage == 2 else "random"
    options = [f"adapter={run}/adapter.safetensors", f"model.checkpoint={weights}", "base_beside=false"]
    main([*asked, *options, f"run_dir={other}"])
    found, expected = (json.loads((folder / "predictions.json").read_text()) for folder in (one, other))
    assert found == expected
    assert [prompt["prompt"] for prompt in found["pictures"][0]["prompts"]] == ["car", "house"]


def test_runs_without_results_and_several_runs_or_adapters(fails, run_folder):
    run = run_folder(stage=1)
    assert "expected one run" in fails(f"run=[{run},{run}]")
    file = run / "adapter.safetensors"
    assert f"adapter=['{file}', '{file}']; expected one adapter" in fails(f"adapter=[{file},{file}]")
    (run / "adapter.safetensors").unlink()
    assert "neither adapter.safetensors nor weights.safetensors is there" in fails(f"run={run}")


def test_nothing_is_replaced_that_predict_did_not_write(pictures, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    monkeypatch.chdir(pictures)
    asked = ["prompts=[car]", "model.checkpoint=random"]
    with pytest.raises(ConfigError, match=r"the overlay would replace the image .*0.png; use another"):
        main([*asked, "images=0.png", "run_dir=."])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "predictions.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"predictions.json is there and was not written by an earlier run"):
        main([*asked, "images=0.png", f"run_dir={tmp_path / 'notes'}"])
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == before
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["predictions.json"]
    for _ in range(2):  # what it wrote itself is replaced
        folder = main([*asked, "images=0.png", f"run_dir={tmp_path / 'out'}"])
    assert {path.name for path in folder.iterdir()} == {"0.png", "index.html", *WRITTEN, MANIFEST}


def test_hidden_files_are_skipped(pictures):
    (pictures / "._0.png").write_bytes(b"resource fork")
    (pictures / ".ipynb_checkpoints").mkdir()
    assert find_images(str(pictures)) == [pictures / "0.png", pictures / "1.png"]


def test_images_are_turned_as_their_exif_orientation_says(tmp_path):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:10, :10] = 255  # top left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show it
    Image.fromarray(pixels).save(tmp_path / "phone.jpg", exif=exif, quality=100)
    phone = tmp_path / "phone.jpg"
    upright, stored = (np.asarray(Inputs([phone], [1], {}, upright=turned).load(0)) for turned in (True, False))
    assert stored.shape == (20, 30, 3)
    assert upright.shape == (30, 20, 3)
    assert upright[:8, 12:].min() > 200
    assert upright[12:].max() < 50


def test_other_files_of_a_folder_are_said_to_be_passed_over(pictures):
    (pictures / "c.heic").write_bytes(b"")
    (pictures / "sub").mkdir()
    (pictures / ".hidden").write_bytes(b"")
    assert passed_over(str(pictures)) == [f"{pictures}: 2 other files and folders are passed over: c.heic, sub/"]
    assert passed_over(str(pictures / "0.png")) == []


@pytest.mark.parametrize(
    "names", [["red mug", "don't"], ["[sic] car", "b"], ["{a}", "b, c"], ["1e3"], ["null"], ["a: #b"]]
)
def test_names_that_train_prints_are_the_prompts_that_predict_reads(names):
    config = parse_command("predict", ["images=x", f"prompts={prompts_text(names)}"])[1]
    assert listed_prompts(config.prompts) == names
