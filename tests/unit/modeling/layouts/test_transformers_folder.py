"""Transformers loads what we write, we load what it writes, and both answer alike; nothing is lost on the way."""

from __future__ import annotations

import filecmp
import json

import pytest
import torch
from published_layouts import same
from safetensors.torch import save_file
from transformers_models import TINY, largest_difference, our_answers, tiny_transformers_model, transformers_answers

import sam3_hyperet as hy
from sam3_hyperet.errors import CheckpointError, ConfigError
from sam3_hyperet.modeling.checkpoint import load_base, save_official
from sam3_hyperet.modeling.fingerprint import base_fingerprint
from sam3_hyperet.modeling.layouts.base_files import INDEX, REMAINDER, TRANSFORMERS_FILE
from sam3_hyperet.modeling.layouts.transformers_folder import save_transformers
from sam3_hyperet.modeling.tensor_files import read_safetensors

NECK = "detector.backbone.vision_backbone."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The packaged weights, and the folder that transformers loads."""
    model = hy.build_model("tiny")
    folder = tmp_path_factory.mktemp("trained") / "folder"
    save_transformers(model, folder)
    return model, folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A model of transformers with random weights, and the folder that it saved."""
    model = tiny_transformers_model()
    folder = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder)
    return model, folder


def test_transformers_loads_our_folder_and_answers_alike(trained, picture):
    from transformers import Sam3Model

    model, folder = trained
    loaded, found = Sam3Model.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    ours = our_answers(model, picture, 128, "a red car")
    assert largest_difference(ours, transformers_answers(loaded.eval(), picture, 128, "a red car")) <= 1e-4


def test_we_load_the_folder_of_transformers_and_answer_alike(theirs, picture):
    model, folder = theirs
    answers = transformers_answers(model, picture, 128, "a red car")
    for checkpoint in (folder, folder / TRANSFORMERS_FILE):
        ours = hy.build_model("tiny", checkpoint=checkpoint)
        assert largest_difference(answers, our_answers(ours, picture, 128, "a red car")) <= 1e-4


def test_the_processor_and_the_tokenizer_are_sam_3s(trained, picture):
    from transformers import Sam3Processor

    from sam3_hyperet.inference.predictor import model_input

    model, folder = trained
    processor = Sam3Processor.from_pretrained(folder)
    texts = ["a red car", "person's hand", "Café, 2 traffic lights"]
    found = processor(images=[picture], text=texts, return_tensors="pt")
    assert (found["pixel_values"][0] - model_input(picture, 128, torch.device("cpu"))).abs().max() <= 1e-6
    tokens = model.backbone.language_backbone.tokenizer(texts, context_length=32)
    assert torch.equal(found["input_ids"] * found["attention_mask"], tokens)


def test_files_in_parts_are_read(theirs, tmp_path):
    model, folder = theirs
    model.save_pretrained(tmp_path, max_shard_size="6MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    whole, parts = (hy.build_model("tiny", checkpoint=one).state_dict() for one in (folder, tmp_path))
    assert same(whole, parts)
    content = json.loads((tmp_path / INDEX).read_text())
    lost = next(iter(content["weight_map"]))
    for name, message in (
        ("../outside.safetensors", r"names the file '../outside.safetensors'; expected one in its own folder"),
        (content["weight_map"][lost], r"1 of 353 tensors are in no file, first more"),
        (None, r"names the file None"),
    ):
        changed = content["weight_map"] | {"more": name}
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": changed if name else dict.fromkeys(changed)}))
        with pytest.raises(CheckpointError, match=message):
            hy.build_model("tiny", checkpoint=tmp_path / INDEX)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_an_index_that_is_none_is_one_line(model, tmp_path, content):
    (tmp_path / INDEX).write_text(content)
    with pytest.raises(CheckpointError, match=r"not an index of safetensors files|not valid JSON"):
        load_base(model, tmp_path)


def official_file(model, version):
    """A file of the tiny model with a tracker's keys, as SAM 3 or 3.1 has them, every tensor different."""
    generator = torch.Generator().manual_seed(4)
    state = {f"detector.{key}": tensor.clone() for key, tensor in model.state_dict().items()}
    for key, tensor in state.items():
        if not key.endswith("freqs_cis"):  # a buffer, which is computed
            state[key] = torch.randn(tensor.shape, generator=generator)
    convs = {key: tensor for key, tensor in state.items() if key.startswith(f"{NECK}convs.")}
    necks = ("sam2_convs",) if version == "3" else ("interactive_convs", "propagation_convs")
    for neck in necks:
        state |= {key.replace("convs", neck): torch.randn(t.shape, generator=generator) for key, t in convs.items()}
    tracker = ["maskmem_tpos_enc", "sam_prompt_encoder.no_mask_embed.weight", "obj_ptr_proj.layers.1.bias"]
    tracker += [f"sam_prompt_encoder.point_embeddings.{i}.weight" for i in range(4)]
    tracker += ["sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    before = "tracker." if version == "3" else "tracker.model.interactive_"
    state |= {f"{before}{name}": torch.randn(1, 6, generator=generator) for name in tracker}
    if version == "3.1":
        state = {key: tensor for key, tensor in state.items() if "convs.2." not in key}  # the tiny neck's last level
    return state


@pytest.mark.parametrize("version", ["3", "3.1"])
def test_no_weight_is_lost_on_the_way_round(base, another, tmp_path, version):
    """Official → ours → transformers → ours → official, from files alone, each step in another model."""
    file = official_file(base, version)
    torch.save(file, tmp_path / "sam3.pt")
    first, second = another(), another()
    load_base(first, tmp_path / "sam3.pt")
    kept = save_transformers(first, tmp_path / "folder", carry_over=tmp_path / "sam3.pt")
    assert kept == "1 of a class token's position, 6 of point prompts" + (
        "" if version == "3" else ", 20 of the tracker's necks, 8 of the tracker"
    )
    load_base(second, tmp_path / "folder")
    assert same(first.state_dict(), second.state_dict())
    save_official(second, tmp_path / "again.pt", carry_over=tmp_path / "folder")
    assert same(torch.load(tmp_path / "again.pt", weights_only=True), file)
    assert base_fingerprint(first) == base_fingerprint(second)
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["model_type"] == ("sam3_video" if version == "3" else "sam3")


def test_the_video_model_of_transformers_comes_back(tmp_path):
    """Its tracker at the published size, carried over from its own folder; the image model opens the folder, too."""
    from transformers import Sam3Model, Sam3VideoConfig, Sam3VideoModel, Sam3VideoProcessor

    theirs = Sam3VideoModel(Sam3VideoConfig(detector_config={"model_type": "sam3", **TINY}))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = hy.build_model("tiny", checkpoint=tmp_path / "theirs")
    kept = save_transformers(ours, tmp_path / "ours", carry_over=tmp_path / "theirs")
    assert kept == "1 of a class token's position, 6 of point prompts"
    before, after = (read_safetensors(tmp_path / name / TRANSFORMERS_FILE)[0] for name in ("theirs", "ours"))
    before = {key.replace("tracker_model.tracker_model.", "tracker_model."): tensor for key, tensor in before.items()}
    once, twice = (
        f"tracker_model.{name}.positional_embedding"
        for name in ("prompt_encoder.shared_embedding", "shared_image_embedding")
    )
    before[twice] = before[once]  # drawn apart here, and equal where they are published
    assert same(before, after)
    for cls in (Sam3VideoModel, Sam3Model):
        _, found = cls.from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not any(found.values())
    assert Sam3VideoProcessor.from_pretrained(tmp_path / "ours").video_processor.size.height == 128


def test_the_file_of_transformers_comes_back(theirs, tmp_path):
    _, folder = theirs
    ours = hy.build_model("tiny", checkpoint=folder)
    save_official(ours, tmp_path / "sam3.pt")
    again = hy.build_model("tiny", checkpoint=tmp_path / "sam3.pt")
    save_transformers(again, tmp_path / "again")
    assert filecmp.cmp(folder / TRANSFORMERS_FILE, tmp_path / "again" / TRANSFORMERS_FILE, shallow=False)  # every byte


def test_weights_saved_by_transformers_win_over_those_beside_them(trained, tmp_path):
    """What lies beside a file is only what it has no place for, also where the file was trained on since."""
    from transformers import Sam3Model

    model, folder = trained
    loaded = Sam3Model.from_pretrained(folder)
    with torch.no_grad():
        loaded.vision_encoder.backbone.embeddings.position_embeddings.add_(1)
    loaded.save_pretrained(tmp_path)
    (tmp_path / REMAINDER).write_bytes((folder / REMAINDER).read_bytes())
    positions = hy.build_model("tiny", checkpoint=tmp_path).backbone.vision_backbone.trunk.pos_embed
    before = model.backbone.vision_backbone.trunk.pos_embed
    assert torch.equal(positions[:, 0], before[:, 0])
    assert torch.equal(positions[:, 1:], before[:, 1:] + 1)


def test_a_remainder_of_other_weights_is_refused(model, trained, tmp_path):
    _, folder = trained
    (tmp_path / TRANSFORMERS_FILE).write_bytes((folder / TRANSFORMERS_FILE).read_bytes())
    row = {f"{NECK}trunk.pos_embed": torch.ones(1, 1, 7)}
    for metadata, message in (
        ({"filled": "[]"}, r"is not of the weights beside it; remove it"),
        ({"filled": "["}, r"not as merge layout=transformers writes it"),
        ({}, r"not as merge layout=transformers writes it"),
    ):
        save_file(row, tmp_path / REMAINDER, metadata)
        with pytest.raises(CheckpointError, match=message):
            load_base(model, tmp_path)


def test_an_adapter_finds_its_base_in_every_layout(trained, copy_of, randomized, tmp_path):
    model, folder = trained
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / TRANSFORMERS_FILE).write_bytes((folder / TRANSFORMERS_FILE).read_bytes())
    save_official(model, tmp_path / "sam3.pt")
    three = {k: v for k, v in torch.load(tmp_path / "sam3.pt", weights_only=True).items() if "convs.2." not in k}
    three.pop("detector.backbone.language_backbone.encoder.text_projection")
    torch.save(three, tmp_path / "sam3.1_multiplex.pt")
    files = (folder, tmp_path / "bare", tmp_path / "sam3.pt", tmp_path / "sam3.1_multiplex.pt")
    bases = [hy.build_model("tiny", checkpoint=file) for file in files]
    assert {base_fingerprint(one) for one in bases} == {base_fingerprint(model)}
    adapted = randomized(hy.inject(copy_of(model), hy.HyperETConfig()))
    hy.save_adapter(adapted, tmp_path / "adapter.safetensors")
    for one in bases:
        hy.load_adapter(one, tmp_path / "adapter.safetensors")


def test_folders_are_found_and_refused_in_one_line(model, trained, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"a folder without base weights; found notes.txt; expected sam3.pt, .*"):
        load_base(model, tmp_path)
    with pytest.raises(ConfigError, match=r"holds notes.txt; expected a new or an empty folder"):
        save_transformers(model, tmp_path)
    with pytest.raises(ConfigError, match=r"is a file; layout=transformers writes a folder"):
        save_transformers(model, tmp_path / "notes.txt")
    hy.inject(model, hy.HyperETConfig())
    with pytest.raises(ConfigError, match=r"the model has adapters"):
        save_transformers(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()
