"""`tools/merge.py` writes a merged base that needs no adapter, or says why not and writes nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from answers import answers, largest_relative_difference
from omegaconf import OmegaConf
from PIL import Image
from published_layouts import same

import sam3_hyperet as hy
from sam3_hyperet.cli import merge as tool
from sam3_hyperet.cli.command import exit_cleanly
from sam3_hyperet.errors import CheckpointError, ConfigError


@pytest.fixture
def adapter(another, randomized, tmp_path):
    """A function from a configuration to its adapter file, and the model it is of."""

    def write(**options):
        model = randomized(hy.inject(another(), hy.HyperETConfig(**options)), scale=0.1)
        hy.save_adapter(model, tmp_path / "adapter.safetensors")
        return tmp_path / "adapter.safetensors", model

    return write


def run(adapter, out, *arguments):
    return tool.main([f"adapter={adapter}", f"out={out}", "model.checkpoint=random", *arguments])


def test_a_merged_base_has_the_adapted_outputs(adapter, picture, tmp_path, capsys):
    file, adapted = adapter(scheme="A+P", geometry="euclidean")
    out = tmp_path / "new" / "merged.safetensors"
    assert run(file, out) == out
    assert "outputs on 1 image differ by " in capsys.readouterr().out
    merged = hy.build_model("tiny", checkpoint=out)
    assert largest_relative_difference(answers(merged, picture), answers(adapted, picture)) <= 1e-5


def test_sam3s_layout_and_what_is_carried_over(adapter, picture, base, tmp_path):
    file, adapted = adapter(scheme="P", structure="diagonal")
    official = {f"detector.{name}": tensor for name, tensor in base.state_dict().items()}
    torch.save({**official, "tracker.memory": torch.ones(3)}, tmp_path / "sam3.pt")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(pictures / "black.png")
    out = run(file, tmp_path / "merged.pt", f"carry_over={tmp_path / 'sam3.pt'}", f"images={pictures}", "prompts=[sky]")
    written = torch.load(out, weights_only=True)
    assert written.keys() == {*official, "tracker.memory"}
    merged = hy.build_model("tiny", checkpoint=out)
    assert largest_relative_difference(answers(merged, picture), answers(adapted, picture)) <= 1e-5


def test_a_base_that_holds_adapters_is_refused(adapter, model, tmp_path):
    file, _ = adapter(scheme="A", geometry="euclidean")
    torch.save(hy.inject(model, {"scheme": "B"}).state_dict(), tmp_path / "adapted.pt")
    with pytest.raises(CheckpointError, match=r"adapted\.pt: holds \d+ weights of adapters beside the base"):
        run(file, tmp_path / "merged.safetensors", f"model.checkpoint={tmp_path / 'adapted.pt'}")
    assert not (tmp_path / "merged.safetensors").exists()


def test_an_output_that_is_not_a_number_is_no_equal_one(adapter, tmp_path, monkeypatch):
    file, _ = adapter(scheme="A", geometry="euclidean")
    found = itertools.chain([0.0, float("nan")], itertools.repeat(0.0))
    monkeypatch.setattr(tool, "relative_difference", lambda *_: next(found))
    with pytest.raises(CheckpointError, match="merged outputs differ by nan; expected at most"):
        run(file, tmp_path / "merged.safetensors")
    assert not (tmp_path / "merged.safetensors").exists()


def test_a_large_folder_is_checked_on_eight_images_one_by_one(adapter, tmp_path, monkeypatch, capsys):
    file, _ = adapter(scheme="A", geometry="mobius")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(20):
        Image.fromarray(np.full((20, 30, 3), 12 * i, np.uint8)).save(pictures / f"{i:02}.png")
    sizes, merge = [], tool.merge

    def watched(model, images):
        assert images.device.type == "cpu"
        with model.backbone.vision_backbone.trunk.register_forward_pre_hook(lambda _, x: sizes.append(len(x[0]))):
            return merge(model, images)

    monkeypatch.setattr(tool, "merge", watched)
    run(file, tmp_path / "merged.safetensors", f"images={pictures}")
    said = capsys.readouterr().out
    assert "checked on 8 of 20 images, evenly spread" in said
    assert "outputs on 8 images differ by " in said
    assert sizes == [1] * 8


def test_the_layout_of_transformers(adapter, picture, tmp_path, capsys):
    file, adapted = adapter(scheme="P", structure="diagonal")
    out = run(file, tmp_path / "folder", "layout=transformers")
    said = capsys.readouterr().out
    assert "kept beside, in not_in_transformers.safetensors" in said
    assert "1 of a class token's position, 6 of point prompts" in said
    merged = hy.build_model("tiny", checkpoint=out)
    assert largest_relative_difference(answers(merged, picture), answers(adapted, picture)) <= 1e-5
    assert (out / "config.json").is_file()


def test_a_base_is_written_in_another_layout(base, tmp_path, capsys):
    """Without an adapter: from SAM 3's own to transformers', and back to the same file."""
    steps = [("sam3.pt", "random", []), ("folder", "sam3.pt", ["sam3.pt"]), ("again.pt", "folder", ["folder"])]
    for out, checkpoint, carried in steps:
        tool.main(
            [
                f"out={tmp_path / out}",
                f"layout={'transformers' if out == 'folder' else 'official'}",
                f"model.checkpoint={checkpoint if checkpoint == 'random' else tmp_path / checkpoint}",
                *(f"carry_over={tmp_path / one}" for one in carried),
            ]
        )
        assert f"no adapter; wrote {tmp_path / out}" in capsys.readouterr().out
    first, last = (torch.load(tmp_path / name, weights_only=True) for name in ("sam3.pt", "again.pt"))
    assert same(first, last)
    assert same(first, {f"detector.{key}": tensor for key, tensor in base.state_dict().items()})


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"scheme": "P"}, ["layout=official"], "with layout=official; expected another ending, such as .pt"),
        ({"scheme": "P"}, ["layout=hf"], "layout='hf' is unknown; expected one of official, base"),
        ({"scheme": "A"}, [], "site fpn.0 does not fold into the base weights: geometry lorentz"),
        ({"scheme": "A+B", "geometry": "euclidean"}, [], "site encoder_layer does not fold"),
        ({"scheme": "P"}, ["images=/nowhere"], "/nowhere: no such image or folder"),
        ({"scheme": "P"}, ["model.seed=1"], "made for the base"),
        ({"scheme": "P"}, ["carry_over=x.pt"], "carry_over=x.pt is for SAM 3's own layout"),
        ({"scheme": "P"}, ["output=x"], "did you mean out?"),
    ],
)
def test_what_cannot_be_merged(adapter, tmp_path, capsys, options, arguments, message):
    file, _ = adapter(**options)
    out = tmp_path / "merged.safetensors"
    with pytest.raises(SystemExit) as exit_:
        exit_cleanly(run)(file, out, *arguments)
    assert exit_.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_a_run_is_merged(adapter, picture, tmp_path):
    file, adapted = adapter(scheme="P", structure="diagonal")
    values = {"model": {"name": "tiny", "checkpoint": "random"}, "data": {"name": "x"}}
    OmegaConf.save(OmegaConf.create(values), tmp_path / "config.yaml")
    out = tool.main([f"run={file.parent}", f"out={tmp_path / 'merged.safetensors'}", "prompts=sky,sea"])
    merged = hy.build_model("tiny", checkpoint=out)
    assert largest_relative_difference(answers(merged, picture), answers(adapted, picture)) <= 1e-5


def test_what_is_carried_over_is_looked_for_before_the_model_is_built(tmp_path, monkeypatch):
    monkeypatch.setattr("sam3_hyperet.cli.merge.open_described", None)
    given = [f"carry_over={tmp_path / 'sam3.pt'}", "layout=official", f"out={tmp_path / 'merged.pt'}"]
    with pytest.raises(CheckpointError, match=r"sam3\.pt: no such file"):
        tool.main(given)


def test_there_must_be_something_to_merge(tmp_path):
    with pytest.raises(ConfigError, match=r"merge: needs adapter=… or run=…"):
        tool.main([f"out={tmp_path / 'merged.safetensors'}"])


def test_what_is_read_is_not_replaced(adapter):
    file, _ = adapter(scheme="P")
    before = file.read_bytes()
    for out in (file, file.parent / ".." / file.parent.name / file.name):
        with pytest.raises(ConfigError, match=r"is read as well and would be replaced; expected another file"):
            run(file, out)
    assert file.read_bytes() == before


def test_outputs_that_change_are_not_written(adapter, tmp_path, monkeypatch, capsys):
    def wrong(model, images):
        with torch.no_grad():
            hy.merge(model, images).segmentation_head.instance_seg_head.weight.mul_(2.0)

    file, _ = adapter(scheme="P")
    monkeypatch.setattr(tool, "merge", wrong)
    with pytest.raises(SystemExit):
        exit_cleanly(run)(file, tmp_path / "merged.safetensors")
    assert "merged outputs differ by" in capsys.readouterr().err
    assert not (tmp_path / "merged.safetensors").exists()


def test_an_adapter_in_a_list_is_not_written_over(tmp_path):
    file = tmp_path / "adapter.safetensors"
    file.write_bytes(b"trained")
    with pytest.raises(ConfigError, match=r"adapter\.safetensors"):
        tool.main([f"adapter=[{file}]", f"out={file}", "layout=base"])
    assert file.read_bytes() == b"trained"
