"""`sam3-hyperet radius`: figures against hooks of one's own, files, and mistakes in one line."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from sam3_hyperet.cli.radius import encoder_names, main
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.evaluation.encoder_radius import measure_radii, radii_of
from sam3_hyperet.modeling.encoders.opening import block_features, open_encoder

NAMES, SIDES = ("test_vit", "test_vit2", "eva02_tiny_patch14_224", "eva02_tiny_patch14_336"), (112, 224)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (30, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def lengths_by_own_hooks(name: str, side: int, images) -> dict[str, np.ndarray]:
    """Norms of the patches of each block, and of the output, of an encoder with the same random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=0, img_size=side).eval()
    found: dict[str, list[torch.Tensor]] = {}
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda _, __, out, i=i: found.setdefault(f"blocks.{i}", []).append(out))
    mean, std = (np.array(model.pretrained_cfg[key]) for key in ("mean", "std"))
    for path in sorted(images.iterdir()):
        square = np.asarray(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(((square / 255 - mean) / std).transpose(2, 0, 1)).float()
        with torch.no_grad():
            found.setdefault("output", []).append(model.forward_features(pixels[None]))
    return {
        layer: np.concatenate(
            [np.linalg.norm(out[0, model.num_prefix_tokens :].double().numpy(), axis=-1) for out in outs]
        )
        for layer, outs in found.items()
    }


def test_the_table_has_the_figures_of_hooks_of_ones_own(images, tmp_path, capsys):
    main([f"encoder=timm:{','.join(NAMES)}", f"images={images}", "resolution=[112,224]", f"run_dir={tmp_path}"])
    with (tmp_path / "radii.csv").open() as file:
        rows = list(csv.DictReader(file))
    of = {(row["encoder"], int(row["resolution"]), row["layer"]): row for row in rows}
    assert {(name, side) for name, side, _ in of} == {(f"timm:{name}", side) for name in NAMES for side in SIDES}
    assert {row["family"] for row in rows} == {"eva", "VisionTransformer"}
    for name in NAMES:
        for side in SIDES:
            lengths = lengths_by_own_hooks(name, side, images)
            assert set(lengths) == {layer for one, at, layer in of if (one, at) == (f"timm:{name}", side)}
            for layer, length in lengths.items():
                row = of[f"timm:{name}", side, layer]
                assert int(row["positions"]) == len(length)
                normalised = np.sort(np.tanh(length / np.sqrt(int(row["channels"]))))
                expected = {
                    "radius/mean": 2 * length.mean(),
                    "radius/min": 2 * length.min(),
                    "radius/max": 2 * length.max(),
                    "normalized_radius/mean": normalised.mean(),
                    "normalized_radius/std": normalised.std(),
                    "normalized_radius/min": normalised[0],
                    "normalized_radius/q05": normalised[round(0.05 * (len(length) - 1))],
                    "normalized_radius/q50": normalised[round(0.5 * (len(length) - 1))],
                    "normalized_radius/max": normalised[-1],
                }
                assert {key: float(row[key]) for key in expected} == pytest.approx(expected, rel=1e-6, abs=1e-6)
    out, page = capsys.readouterr().out, (tmp_path / "radii.md").read_text()
    assert "random weights, whose radii say nothing of published ones" in out
    assert out.count("weights: random") == 8
    assert page.count("| timm:test_vit2 |") == 6
    assert "<svg" in (tmp_path / "radii.svg").read_text()


def test_scales():
    length = torch.tensor([1.0, 2.0, 4.0])
    by_width, by_median, raw = (radii_of(length, 16, 0.25, scale) for scale in ("width", "median", "none"))
    assert by_width["normalized_radius/q50"] == pytest.approx(np.tanh(0.5 * 2 / 4))
    assert by_median["normalized_radius/q50"] == pytest.approx(np.tanh(0.5))
    assert raw["normalized_radius/q50"] == pytest.approx(np.tanh(1.0))
    for one in (by_width, by_median, raw):
        assert (one["spread"], one["radius/mean"]) == pytest.approx((1.5, 14 / 3))


def test_weights_of_a_file_and_encoders_of_other_libraries(images, tmp_path):
    import transformers

    model = timm.create_model("test_vit", num_classes=0)
    torch.save(model.state_dict(), file := tmp_path / "weights.pth")
    encoder = open_encoder("timm:test_vit", 160, str(file))
    assert encoder.weights == str(file)
    assert all(torch.equal(p, model.state_dict()[key]) for key, p in encoder.model.named_parameters())
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": 32}
    config = transformers.Dinov2Config(**sizes, mlp_ratio=2)
    transformers.Dinov2Model(config).save_pretrained(folder := tmp_path / "dinov2")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}))
    for name, weights, layers in ((f"transformers:{folder}", str(folder), 3), ("sam3:tiny", "random", 5)):
        side = 128 if name.startswith("sam3") else 64
        encoder = open_encoder(name, side)
        assert encoder.weights == weights
        rows = measure_radii(encoder, sorted(images.iterdir()))
        assert [row.positions for row in rows] == [2 * (side // 8) ** 2] * layers
    assert open_encoder(f"transformers:{folder}", 32).mean == (0.1, 0.1, 0.1)
    (folder / "model.safetensors").unlink()
    assert open_encoder(f"transformers:{folder}", 32, empty=True).weights == "random"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["encoder=timm:test_vitt"], "encoder=timm:test_vitt: timm has no such model; did you mean test_vit"),
        (["encoder=test_vit"], "encoder=test_vit; expected timm:NAME, transformers:FOLDER_OR_NAME or sam3:NAME"),
        (["encoder=timm:test_vit", "resolution=[160,170]"], "resolution=170: timm:test_vit has patches of 16 pixels"),
        (["encoder=timm:test_vit,test_vit2", "weights=a.pth"], "weights: 1 files for 2 encoders; expected one each"),
        (["encoder=timm:test_vit", "weights=a.pth"], "weights=a.pth: no such file"),
        (["encoder=timm:test_resnet"], "encoder=timm:test_resnet at 224"),
        (["encoder=transformers:/none/such"], "encoder=transformers:/none/such: no such folder"),
    ],
)
def test_mistakes_are_one_line(options, message, images, tmp_path):
    with pytest.raises(ConfigError) as found:
        main([*options, f"images={images}", f"run_dir={tmp_path / 'run'}"])
    assert str(found.value).startswith(message)
    assert not (tmp_path / "run").exists()


def test_an_unreadable_image_is_named_before_anything_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"no image")
    monkeypatch.setattr("sam3_hyperet.cli.radius.check_encoder", None)
    with pytest.raises(DataError, match=r"a\.jpg: not a readable image"):
        main(["encoder=timm:test_vit", f"images={tmp_path}", f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_names_without_a_source_have_that_of_the_one_before():
    expected = ["timm:a", "timm:b.x", "transformers:c/d", "timm:hf-hub:e/f"]
    assert encoder_names("timm:a, b.x,transformers:c/d,timm:hf-hub:e/f") == expected
    with pytest.raises(ConfigError, match="expected timm:NAME"):
        encoder_names("a")


def test_what_has_too_many_tokens_is_refused():
    encoder = open_encoder("timm:test_vit", 64)
    encoder.model.blocks[0].register_forward_hook(lambda _, __, out: nn.functional.pad(out, (0, 0, 0, 20)))
    with block_features(encoder), pytest.raises(ConfigError, match="expected at most 16 beside those of patches"):
        encoder.features(torch.zeros(1, 3, 64, 64))


def test_the_class_token_behind_a_convolutional_stem_is_left_out():
    encoder = open_encoder("timm:vit_tiny_r_s16_p8_224", 64)  # its first convolution has stride 2, its patches 32
    with torch.inference_mode(), block_features(encoder) as found:
        output = encoder.features(torch.zeros(1, 3, 64, 64))
    tokens = found[encoder.blocks[-1]]
    assert output.shape[1] == 1 + (64 // 32) ** 2
    assert tokens.shape[1] == (64 // 32) ** 2
