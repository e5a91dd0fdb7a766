"""Models of one base share its tensors and what its encoders make of a picture, and answer as they do alone."""

from __future__ import annotations

import itertools

import pytest
import torch
from PIL import Image

import sam3_hyperet as hy
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.inference.tiled_prediction import TiledPredictor
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.modeling.copies import adapted_copy
from sam3_hyperet.modeling.parameters import adapter_parameters

PROMPTS = ("car", "red wheel")
CONFIGS = {
    "A": {"scheme": "A"},
    "B": {"scheme": "B"},
    "P": {"scheme": "P"},
    "prompt": {"sites": ["prompt"]},
    "bitfit": {"adapter": "bitfit", "biases": ["encoder", "vision_backbone.*convs.0"]},
    "lora": {"adapter": "lora", "scheme": "A"},
}


@pytest.fixture
def adapted(base, randomized):
    return lambda name: randomized(adapted_copy(base, hy.HyperETConfig.from_mapping(CONFIGS[name])), scale=0.1)


def answers(predictor, picture):
    found = list(predictor.predict(picture))
    return torch.stack([a.scores for a in found]), torch.stack([a.mask_logits for a in found])


@pytest.fixture
def encoded(monkeypatch):
    """How often any trunk has run, and any text encoder."""
    from sam3_hyperet import sam3_host as host

    counts = {"trunk": 0, "text": 0}
    for name, cls in (("trunk", host.ViT), ("text", host.VETextEncoder)):
        forward = cls.forward

        def counted(*args, name=name, forward=forward, **kwargs):
            counts[name] += 1
            return forward(*args, **kwargs)

        monkeypatch.setattr(cls, "forward", counted)
    return counts


@pytest.mark.parametrize("name", CONFIGS)
def test_a_copy_has_the_frozen_tensors_and_adapters_of_its_own(base, adapted, name):
    before = {key: (id(p), p.clone()) for key, p in base.named_parameters()}
    model = adapted(name)
    added = {id(p) for _, p in adapter_parameters(model)}
    assert added
    shared = {id(p) for p in base.parameters()}
    own = {id(p) for p in model.parameters()} - shared
    assert own == added
    assert {id(b) for b in base.buffers()} <= {id(b) for b in model.buffers()}
    for key, parameter in base.named_parameters():
        assert id(parameter) == before[key][0]
        assert torch.equal(parameter, before[key][1])


def test_tiles_of_an_image_are_encoded_once_for_all_models(base, adapted, encoded, picture):
    tiled = [TiledPredictor(Predictor(one, PROMPTS, 128), Tiling.of("2x1")) for one in (base, adapted("A"))]
    with shared_encoding([one.predictor.model for one in tiled], 2):
        found = [[part.scores for one in predictor.predict(picture) for part in one.tiles] for predictor in tiled]
    assert encoded == {"trunk": 2, "text": 1}
    assert not torch.equal(found[0][0], found[0][1])
    assert not torch.equal(found[0][0], found[1][0])


def test_a_copy_of_an_adapted_model_is_refused(adapted):
    with pytest.raises(ConfigError, match="already has adapters"):
        adapted_copy(adapted("A"), hy.HyperETConfig())


def test_a_copy_loads_an_adapter_file(base, adapted, picture, tmp_path):
    model = adapted("bitfit")
    hy.save_adapter(model, tmp_path / "adapter.safetensors")
    again = adapted_copy(base, model.hyperet_config)
    hy.load_adapter(again, tmp_path / "adapter.safetensors")
    expected, found = (answers(Predictor(one, PROMPTS, 128), picture) for one in (model, again))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    ("name", "trunks", "texts"),
    [("A", 2, 1), ("B", 2, 1), ("prompt", 2, 1), ("P", 4, 1), ("bitfit", 4, 2), ("lora", 4, 1)],
)
def test_what_is_the_same_is_encoded_once(base, adapted, picture, encoded, name, trunks, texts):
    """Two pictures, two models: 2 runs of the trunk where they share it, else 4."""
    pictures = [picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    predictors = [Predictor(model, PROMPTS, 128) for model in (base, adapted(name))]
    with shared_encoding([predictor.model for predictor in predictors]):
        found = [answers(predictor, one) for one in pictures for predictor in predictors]
    assert encoded == {"trunk": trunks, "text": texts}
    alone = [answers(Predictor(predictor.model, PROMPTS, 128), one) for one in pictures for predictor in predictors]
    for a, b in zip(found, alone, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


def test_what_trains_is_encoded_each_time(model, encoded):
    """Its weights may have changed since; what is frozen is encoded once, also where gradients are wanted."""
    pixels = torch.zeros(1, 3, 128, 128)
    with shared_encoding([model]):
        for trains, gradients, runs in ((False, True, 1), (True, True, 2), (True, False, 2)):
            model.backbone.vision_backbone.requires_grad_(trains)
            encoded["trunk"] = 0
            with torch.set_grad_enabled(gradients):
                for _ in range(2):
                    model.backbone.forward_image(pixels)
            assert encoded["trunk"] == runs


def test_precisions_are_kept_apart_and_the_model_is_left_as_it_was(base, picture, encoded):
    modules = [id(module) for module in base.modules()]
    predictors = [Predictor(base, PROMPTS, 128, precision=precision) for precision in ("32-true", "bf16-mixed")]
    with shared_encoding([predictor.model for predictor in predictors]):
        exact, mixed = (answers(predictor, picture) for predictor in predictors)
        assert encoded["trunk"] == 2
        assert all(torch.equal(x, y) for x, y in zip(exact, answers(predictors[0], picture), strict=True))
        assert encoded["trunk"] == 2
    assert not torch.equal(exact[0], mixed[0])
    assert [id(module) for module in base.modules()] == modules


def test_switching_adapters_on_and_off_within(base, adapted, picture):
    model = adapted("bitfit")
    predictor = Predictor(model, PROMPTS, 128)
    with shared_encoding([predictor.model]):
        on = answers(predictor, picture)
        with hy.adapters_disabled(model):
            off = answers(Predictor(model, PROMPTS, 128), picture)
    expected = answers(Predictor(base, PROMPTS, 128), picture)
    assert all(torch.equal(x, y) for x, y in zip(off, expected, strict=True))
    assert not torch.equal(on[1], off[1])


def test_weights_that_an_evaluation_within_training_finds_changed(model, encoded):
    """The same last image in two evaluations, one of other weights: by a step in between, or as averages are put in."""
    pixels = torch.zeros(1, 3, 128, 128)
    model.requires_grad_(True)
    weight = model.backbone.vision_backbone.convs[0].conv_3x3.weight

    def evaluated():
        with shared_encoding([model]), torch.inference_mode():
            return model.backbone.forward_image(pixels)["backbone_fpn"][0]

    with shared_encoding([model]):
        first = evaluated()
        weight.data.mul_(2.0)
        assert not torch.equal(evaluated(), first)
        with torch.inference_mode():
            kept = model.backbone.forward_image(pixels)["backbone_fpn"][0]
        model.backbone.forward_image(pixels)  # of a step, which writes as it likes
        weight.data.mul_(2.0)
        encoded["trunk"] = 0
        with torch.inference_mode():
            assert not torch.equal(model.backbone.forward_image(pixels)["backbone_fpn"][0], kept)
        assert encoded["trunk"] == 1


def test_a_dead_tensors_id_is_no_proof(model):
    """Parameters that are put in place of others, one after the other, as bias tuning does."""
    conv, pixels, found = model.backbone.vision_backbone.convs[0].conv_3x3, torch.zeros(1, 3, 128, 128), []
    shape = conv.bias.shape
    with shared_encoding([model]), torch.inference_mode():
        for value in range(6):
            conv.bias = torch.nn.Parameter(torch.full(shape, float(value)), requires_grad=False)
            found.append(float(model.backbone.forward_image(pixels)["backbone_fpn"][0].mean()))
    assert len({round(b - a, 3) for a, b in itertools.pairwise(found)}) == 1  # each a step further


def test_position_encodings_are_kept_once(base, picture):
    predictor = Predictor(base, PROMPTS, 128)
    alone = predictor.encode(picture)["vision_pos_enc"]
    with shared_encoding([base], inputs=2):
        first, second = (predictor.encode(one)["vision_pos_enc"] for one in (picture, picture.rotate(180)))
    assert all(a is b and torch.equal(a, c) for a, b, c in zip(first, second, alone, strict=True))
