"""`predict` that was killed goes on to the files of an undisturbed one; what is drawn meanwhile, and its errors."""

from __future__ import annotations

import errno
import json
import re
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from mortal_runs import Killed
from PIL import Image
from torch import nn

from sam3_hyperet.cli import predict, predict_files, predict_images, predict_models, predict_records
from sam3_hyperet.cli.predict_overlays import Overlays
from sam3_hyperet.errors import ConfigError, DataError, StorageError
from sam3_hyperet.files import LOCK, sole_use
from sam3_hyperet.inference.prediction import PromptPrediction

COUNT = 5
KEPT = "records/predicted"


class Found:
    """Finds more of an image the brighter it is; at each image it calls what the test has put in `at_image`."""

    seen: ClassVar[list[int]] = []
    weights = "a"

    def __init__(self, model, vocabulary, *_, **__) -> None:
        self.model, self.vocabulary, self.precision, self.device = model, vocabulary, "32-true", torch.device("cpu")
        self.resolution = 0

    @staticmethod
    def at_image(number: int) -> None:
        """Nothing."""

    def predict(self, image, prompts, exemplars):
        shade = image.getpixel((0, 0))[0]
        Found.at_image(shade)
        Found.seen.append(shade)
        logits = torch.full((1, 4, 4), -9.0)
        logits[:, :, : 1 + shade % 3] = 9.0
        for number, given in zip(prompts, exemplars, strict=True):
            score = 0.9 - number / 10 - shade / 1000 - (0.01 if given else 0)
            yield PromptPrediction(torch.tensor([score]), torch.tensor([[0.0, 0, 0.5, 1]]), logits, logits[0], 1.0)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(COUNT):
        Image.new("RGB", (40 + number, 20), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path, photos):
    """A function that runs the tool with `Found` in place of a model; returns its folder."""
    monkeypatch.setattr(predict_models, "Predictor", Found)
    monkeypatch.setattr(predict_models, "open_described", lambda *_: nn.Module())
    monkeypatch.setattr(predict_models, "resolution", lambda model: 0)
    fixed = {"adapter": None, "device": "cpu"}
    monkeypatch.setattr(predict_records, "model_facts", lambda models: [{"base": Found.weights, **fixed}])
    monkeypatch.setattr(Found, "seen", [])

    def main(*arguments: str, folder: str = "out") -> Path:
        Found.seen.clear()
        given = [f"images={photos}", *([] if any(a.startswith("annotations=") for a in arguments) else ["prompts=a,b"])]
        return predict.main([*given, *arguments, f"run_dir={tmp_path / folder}"])

    return main


@pytest.fixture
def killed(run, monkeypatch, tmp_path):
    """A function that runs the tool until it is killed while the model is at an image; returns its folder."""

    def main(*arguments: str, at: int = 3) -> Path:
        def die(number: int) -> None:
            if number == at:
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(Found, "at_image", die)
            with pytest.raises(Killed):
                run(*arguments)
        return tmp_path / "out"

    return main


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def records(folder: Path) -> int:
    return len(list((folder / KEPT).glob("*.npz")))


@pytest.fixture
def boxes(tmp_path):
    content = {f"{n}.png": [{"prompt": "c", "box": [2, 2, 9, 9]}] for n in (1, 4)}
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    return tmp_path / "boxes.json"


@pytest.fixture
def listing(tmp_path):
    """A COCO file of the images, whose ids are in another order than their names."""
    images = [{"id": 9 - n, "file_name": f"{n}.png", "width": 40 + n, "height": 20} for n in reversed(range(COUNT))]
    (tmp_path / "test.json").write_text(json.dumps({"images": images, "categories": [{"id": 18, "name": "dog"}]}))
    return tmp_path / "test.json"


@pytest.mark.parametrize(
    "options", [[], ["masks=true"], ["overlays=false"], ["exemplars={boxes}"], ["annotations={listing}", "masks=true"]]
)
def test_a_killed_prediction_goes_on_to_the_same_files(run, killed, boxes, listing, tmp_path, capsys, options):
    given = [option.format(boxes=boxes, listing=listing) for option in options]
    expected = files(run(*given, folder="undisturbed"))
    order = list(Found.seen)
    said = capsys.readouterr().out
    folder = killed(*given, at=order[3])
    done = records(folder)
    assert 1 <= done <= 3  # two may have waited in the background
    assert f"{done} of 5 images done and kept: the same command with run_dir={folder}" in capsys.readouterr().out
    assert not {"predictions.json", "results.json", "images.json", "index.html", LOCK} & files(folder).keys()
    assert not list(folder.rglob(".*.tmp"))
    assert files(run(*given)) == expected
    assert Found.seen == order[done:]
    again = capsys.readouterr().out
    assert f"{folder}: {done} of 5 images taken over, goes on with {5 - done}\n" in again
    lines = [one for one in again.splitlines() if ".png: " in one or one.startswith("wrote ")]
    before = [one for one in said.replace("undisturbed", "out").splitlines() if ".png: " in one or "wrote " in one]
    assert lines == before[done:]
    assert not (folder / "records").exists()


@pytest.mark.parametrize("at", ["images.json", "index.html"])
def test_a_kill_while_the_last_files_are_written(run, tmp_path, monkeypatch, at):
    expected = files(run("masks=true", folder="undisturbed"))

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*((predict_files, "write_json") if at == "images.json" else (Overlays, "write_page")), die)
        with pytest.raises(Killed):
            run("masks=true")
    assert records(tmp_path / "out") == COUNT
    assert files(run("masks=true")) == expected
    assert Found.seen == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (["prompts=a,c"], "prompts was ['a', 'b'], now it is ['a', 'c']"),
        (["score_threshold=0.4"], "score_threshold was 0.5, now it is 0.4"),
        (["masks=true"], "masks was False, now it is True"),
        (["max_dets=1"], "max_dets was None, now it is 1"),
        (["overlays=false"], "overlays was True, now it is False"),
        (["exif=ignore"], "exif was apply, now it is ignore"),
        ([], "base weights was a, now it is b"),
    ],
)
def test_another_prediction_is_not_mixed_in(run, killed, monkeypatch, capsys, changes, why):
    folder = killed()
    before = files(folder)
    if not changes:
        monkeypatch.setattr(Found, "weights", "b")
    remedy = "expected the same command, which goes on from them, resume=never, which starts over, or another run_dir"
    done = records(folder)
    message = f"run_dir={folder}: {done} images of an unfinished prediction there, but {why}; {remedy}"
    with pytest.raises(ConfigError, match=re.escape(message)):
        run(*changes)
    assert files(folder).keys() >= before.keys()
    assert Found.seen == []
    run(*changes, "resume=never")
    assert len(Found.seen) == COUNT
    assert f"{KEPT}: {done} records start over: resume=never" in capsys.readouterr().out


def test_less_memory_goes_on(run, killed):
    killed()
    run("prompts_at_once=1", "threads=1")
    assert len(Found.seen) <= 3


def test_images_that_changed_or_came_between(run, killed, photos, tmp_path, capsys):
    folder = killed("masks=true", at=4)
    done = records(folder)
    Image.new("RGB", (41, 20), (11, 0, 0)).save(photos / "1.png")
    Image.new("RGB", (44, 20), (12, 0, 0)).save(photos / "00.png")
    (folder / "masks" / "2" / "a_1.png").unlink()
    capsys.readouterr()
    found = files(run("masks=true"))
    said = capsys.readouterr().out
    assert f"{done - 2} of 6 images taken over, goes on with {6 - done + 2}; " in said
    assert "; 1 done again for a changed image file; 1 done again for a missing overlay or mask" in said
    assert Found.seen == [12, 11, 2, *range(done, 5)]
    assert files(run("masks=true", folder="undisturbed")) == found


def test_changed_exemplars_and_a_damaged_record(run, killed, boxes, capsys):
    folder = killed(f"exemplars={boxes}", at=4)
    boxes.write_text(boxes.read_text().replace("[2, 2", "[3, 2", 1))
    damaged = min((folder / KEPT).glob("*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    found = files(run(f"exemplars={boxes}"))
    assert "done again for" in capsys.readouterr().out
    assert 1 in Found.seen
    assert files(run(f"exemplars={boxes}", folder="undisturbed")) == found


def test_a_finished_prediction_is_made_anew(run, killed, capsys):
    """Its files are gone as soon as another one replaces them, so that they are never of two predictions."""
    before = files(run("masks=true"))
    folder = killed("score_threshold=.85", "overlays=false")
    assert files(folder).keys() & {"predictions.json", "results.json", "images.json", "index.html"} == set()
    assert not (folder / "masks").exists()
    assert run("resume=never", "masks=true") == folder
    assert files(folder) == before
    assert "taken over" not in capsys.readouterr().out


def test_two_processes_never_share_a_folder(run, tmp_path, monkeypatch):
    said = []

    def other(number: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("sam3_hyperet.files._held", set())  # as another process has it
            patch.setattr("sam3_hyperet.files._try_lock", lambda descriptor: None)
            with pytest.raises(ConfigError, match="is in use by process") as error, sole_use(tmp_path / "out"):
                pass
        said.append(str(error.value))

    monkeypatch.setattr(Found, "at_image", other)
    run()
    assert len(said) == COUNT


def test_what_a_kill_left_half_written_is_swept(run, killed, tmp_path):
    folder = killed("masks=true")
    for name in (".3.png", "masks/3/.a_1.png", f"{KEPT}/.7.npz"):
        path = folder / f"{name}.host-1-0a1b2c3d.tmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    expected = files(run("masks=true", folder="undisturbed"))
    assert files(run("masks=true")) == expected


def test_a_last_image_that_cannot_be_read_is_found_before_the_model_is_opened(run, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_models, "open_described", lambda *_: pytest.fail("the model was opened"))
    (photos / "4.png").write_bytes((photos / "4.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"4\.png: not a readable image"):
        run()
    assert not (tmp_path / "out").exists()


def test_an_image_that_vanishes_meanwhile(run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Found, "at_image", lambda number: (photos / "4.png").unlink(missing_ok=True))
    with pytest.raises(DataError, match=r"4\.png: cannot be read \(No such file"):
        run()
    assert "done and kept: the same command with run_dir=" in capsys.readouterr().out


def test_an_overlay_is_drawn_while_the_model_is_at_the_next_images(run, monkeypatch):
    next_one, drawn, waiting = threading.Event(), [], []
    draw = Overlays.draw

    def slowly(self, name, *rest):
        if not drawn:
            assert next_one.wait(10)  # the model has come to the second image
        assert threading.current_thread() is not threading.main_thread()
        drawn.append(name)
        return draw(self, name, *rest)

    def at_image(number: int) -> None:
        waiting.append(number - len(drawn))
        if number == 1:
            next_one.set()

    monkeypatch.setattr(Overlays, "draw", slowly)
    monkeypatch.setattr(Found, "at_image", at_image)
    run()
    assert drawn == [f"{n}.png" for n in range(COUNT)]
    assert max(waiting) <= predict_images._PENDING + 1


def test_no_more_images_wait_than_allowed(run, monkeypatch):
    gate, seen = threading.Event(), []
    draw = Overlays.draw

    def held(self, *rest):
        gate.wait(10)
        return draw(self, *rest)

    def at_image(number: int) -> None:
        seen.append(number)
        if number == predict_images._PENDING:
            threading.Timer(0.3, lambda: (seen.append("opened"), gate.set())).start()

    monkeypatch.setattr(Overlays, "draw", held)
    monkeypatch.setattr(Found, "at_image", at_image)
    run()
    assert seen.index("opened") == predict_images._PENDING + 1


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StorageError, r"1\.png: .*out/1\.png: No space left"),
        (ValueError("broken mask"), RuntimeError, r"1\.png: what was found on it could not be .* \(broken mask\)"),
    ],
)
def test_errors_of_the_background_have_the_image_s_name(run, monkeypatch, tmp_path, capsys, fault, error, message):
    expected = files(run(folder="undisturbed"))
    save = Image.Image.save

    def full(self, path, *rest, **options):
        if "/.1.png." in str(path):
            raise fault
        save(self, path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(error, match=rf"photos/{message}"):
            run()
    folder = tmp_path / "out"
    assert "0.png" in files(folder)
    assert not files(folder).keys() & {"1.png", "4.png"}
    assert not list(folder.glob(".*.tmp"))
    assert f"{records(folder)} of 5 images done and kept" in capsys.readouterr().out
    assert files(run()) == expected


def test_nan_is_refused_and_named(run, monkeypatch):
    entry = {"width": 1, "height": 1, "prompts": [{"prompt": "a", "presence": np.nan, "detections": []}]}
    monkeypatch.setattr(predict_models, "found_by", lambda *_: entry)
    with pytest.raises(RuntimeError, match=r"0\.png: what was found .*JSON"):
        run("overlays=false")
