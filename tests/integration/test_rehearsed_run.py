"""Training that rehearses: the labels are the base's own detections, and a run keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked_tools import TRAIN, run_forked
from mortal_runs import killed_once_saved
from safetensors.torch import load_file

from sam3_hyperet.cli.evaluate import main as evaluate
from sam3_hyperet.cli.predict import main as predict
from sam3_hyperet.cli.train import main
from sam3_hyperet.data.rehearsal import RehearsedImages
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.scenes.dataset import scenes_folder

pytestmark = pytest.mark.integration
NAMES = ["car", "road", "sky", "bus", "dog", "house"]


@pytest.fixture(scope="module")
def rehearsing(scenes):
    """Overrides of a run that learns wheels and windows, and rehearses what its base knows."""
    learnt = ["model=tiny", "data.prompts=[wheel,window]", "data.absent_concepts=everyday", "data.flip=0"]
    return [*scenes, *learnt, f"rehearsal.names=[{','.join([*NAMES, 'wheel'])}]", "evaluate=false"]


@pytest.fixture(scope="module")
def rehearsed(rehearsing, tmp_path_factory):
    return main([*rehearsing, f"run_dir={tmp_path_factory.mktemp('rehearsed') / 'run'}"])


def rounded(text):
    return round(float(text), 5)


def found_by(folder):
    """The scores and masks of each name and image, best first."""
    content = json.loads((folder / "rehearsal.json").read_text(), parse_float=rounded)
    names = {one["id"]: one["name"] for one in content["categories"]}
    files = {one["id"]: one["file_name"] for one in content["images"]}
    masks = {(files[i], name): [] for i in files for name in names.values()}
    for one in content["annotations"]:
        masks[files[one["image_id"]], names[one["category_id"]]].append((one["score"], one["segmentation"]))
    return masks


def test_the_labels_are_what_predict_finds_with_the_base(rehearsed, rehearsing, scenes, tmp_path, capsys):
    """An adapter that is not the identity to begin with changes nothing of them: the base answers, at dial 0."""
    expected = {}
    root = scenes_folder(Path(next(one.partition("=")[2] for one in scenes if one.startswith("paths.scenes="))), 6, 0)
    options = [f"images={root}/train/images", f"prompts={','.join(NAMES)}", "overlays=false", "score_threshold=0.5"]
    predict(["model=tiny", *options, f"run_dir={tmp_path / 'predicted'}"])
    predicted = json.loads((tmp_path / "predicted" / "predictions.json").read_text(), parse_float=rounded)
    for picture in predicted["pictures"]:
        for prompt in picture["prompts"]:
            detections = [(one["score"], one["segmentation"]) for one in prompt["detections"]]
            expected[picture["file"].rpartition("/")[2], prompt["prompt"]] = detections
    assert found_by(rehearsed) == expected
    assert sum(map(len, expected.values())) > 5
    capsys.readouterr()
    moved = [f"init_adapter={rehearsed}", "optim.lr=0.1", "train.max_steps=1", f"run_dir={tmp_path / 'moved'}"]
    main([*rehearsing, *moved])
    assert found_by(tmp_path / "moved") == expected
    said = capsys.readouterr().out
    assert "rehearsal: 1 name left out, which the prompts of scenes ask for" in said
    assert "rehearsal: 50.0% of all images are to rehearse with; its 6 are seen" in said
    assert "rehearsal: the base was asked for 6 names on 6 training images and found" in said


def test_a_run_that_goes_on_keeps_its_labels(rehearsed, rehearsing, tmp_path):
    command = [*rehearsing, f"run_dir={tmp_path}"]
    killed_once_saved(main, command)
    file = tmp_path / "rehearsal.json"
    before = file.stat().st_mtime_ns
    main(command)
    assert file.stat().st_mtime_ns == before
    ours, theirs = (load_file(folder / "adapter_last.safetensors") for folder in (tmp_path, rehearsed))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    main([*command, "resume=never", "train.max_steps=1"])
    assert file.stat().st_mtime_ns > before


def test_what_is_kept_of_what_was_rehearsed(rehearsed, rehearsing, tmp_path, capsys):
    """Measured without labels: when the step is chosen, when the dial is, and in the evaluation."""
    rule = "max segm/AP where kept/segm/AP >= base-0.9"
    chosen = ["train.validate_every=2", "train.validate_images=2", f"train.best={rule}", f"run_dir={tmp_path / 'run'}"]
    main([*rehearsing, *chosen])
    said = capsys.readouterr().out
    assert "kept: the base was asked for 6 names on 2 tune images and found" in said
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [line["tune/kept/segm/AP"] for line in lines if "tune/kept/segm/AP" in line]
    assert found[0] == pytest.approx(1.0)  # of the base
    assert len(found) == 3
    assert all(0 <= one <= 1 for one in found)

    moved = ["optim.lr=1", "train.max_steps=1", "train.validate_every=0", f"run_dir={tmp_path / 'moved'}"]
    with pytest.raises(ConfigError, match="has 40 tokens"):  # before anything is trained
        main([*rehearsing, *moved, "evaluate=true", f"kept.names=[{'a ' * 40}]", "data.vocabulary=[wheel,window]"])
    main([*rehearsing, *moved, "kept.images=2", "evaluate=true"])
    own = [f"run={tmp_path / 'moved'}", "data.vocabulary=[wheel,window]", "protocol.examples=1"]
    capsys.readouterr()
    folder = evaluate([*own, "dial=auto", f"dial_rule={rule}", "dial_grid=[1]", f"run_dir={tmp_path / 'auto'}"])
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["dial/0/kept/segm/AP"] == metrics["base/scenes/kept/segm/AP"] == pytest.approx(1.0)
    assert metrics["dial/1/kept/segm/AP"] < 0.1
    assert metrics["dial"] == 0.0
    said = capsys.readouterr().out
    assert "kept: the base was asked for 6 names on 2 tune images" in said  # to choose the dial
    assert "kept: the base was asked for 6 names on 2 val images" in said
    metrics = json.loads((evaluate([*own, f"run_dir={tmp_path / 'full'}"]) / "metrics.json").read_text())
    assert metrics["data"]["kept"] == {"names": NAMES, "images": 2, "score_threshold": 0.5, "unclear_threshold": 0.1}
    assert metrics["scenes/kept/segm/AP"] < 0.1
    assert "Agreement" in (tmp_path / "full" / "report.html").read_text()

    capsys.readouterr()
    evaluate([f"run={rehearsed}", "protocol.examples=0", f"run_dir={tmp_path / 'labelled'}"])
    said = capsys.readouterr().out
    assert "kept: nothing is measured of the names of the run: all of the names have labels in scenes" in said
    with pytest.raises(ConfigError, match=r"no metric 'kept/segm/AP'.*needs names without labels \(kept\.names"):
        evaluate([*own, "kept.names=[]", "dial=auto", f"dial_rule={rule}", f"run_dir={tmp_path / 'none'}"])


def test_two_processes_share_the_asking(rehearsed, rehearsing, tmp_path):
    command = [*rehearsing, f"run_dir={tmp_path / 'run'}", "train.batch_size=1", "train.devices=2"]
    done = run_forked(TRAIN, [*command, "train.accelerator=cpu"], tmp_path / "logs")
    assert done.returncode == 0, done.stderr[-3000:]
    assert found_by(tmp_path / "run") == found_by(rehearsed)
    ours, theirs = (load_file(folder / "adapter_last.safetensors") for folder in (tmp_path / "run", rehearsed))
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in theirs) < 2e-6


def test_a_broken_picture_and_a_damaged_file_are_named(rehearsed, rehearsing, tmp_path, monkeypatch):
    """With a remedy each, before anything is trained."""
    state, other = rehearsed / "state.pt", tmp_path / "other"
    other.mkdir()
    for file in (state, rehearsed / "config.yaml"):
        (other / file.name).write_bytes(file.read_bytes())
    (other / "rehearsal.json").write_text('{"categories": [], "images": [], "annotations": []}')
    with pytest.raises(DataError, match=r"other/rehearsal\.json: it is of other images or names .*is asked anew$"):
        main([*rehearsing, f"resume={other / 'state.pt'}", f"run_dir={tmp_path / 'next'}"])

    def load_image(images, i):
        raise DataError(f"{images.image(i).path}: cut off")

    monkeypatch.setattr(RehearsedImages, "load_image", load_image)
    with pytest.raises(DataError, match=r"000001\.png: cut off; `sam3-hyperet prepare` opens every file"):
        main([*rehearsing, f"run_dir={tmp_path / 'broken'}"])
