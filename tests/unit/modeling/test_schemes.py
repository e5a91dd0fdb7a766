"""Every site, structure and geometry: an identity at first, the declared parameters, the exact base when disabled."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from answers import answers, differences, equal, largest_relative_difference
from official import on_meta

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import GEOMETRIES, STRUCTURES
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.losses.grounding import TOTAL, GroundingLoss
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.build import ARCHITECTURES, assemble
from sam3_hyperet.modeling.config import SITES
from sam3_hyperet.modeling.parameters import adapter_parameters
from sam3_hyperet.modeling.sites.tokens import HyperETEncoderLayer
from sam3_hyperet.training.stages import set_training_mode

MATRIX_SITES = [site for site in SITES if site != "attention"]
PAIRS = list(enumerate(itertools.product(MATRIX_SITES, STRUCTURES)))
"""Each site with each structure; geometries in turn, so that any two of the three meet. No code reads all three."""
ENCODER = "transformer.encoder.layers"
QKV = "backbone.vision_backbone.trunk.blocks"


def matrix_size(structure, d):
    return {"diagonal": d, "block_diagonal": 4 * d, "banded": 3 * d - 2, "dense": d * d}[structure]


def prefixes(site, structure, a):
    """Where an architecture gets an adjustment of `site`, by default, and of how many channels."""
    levels = range(len(a.scale_factors) - 1)
    blocks = range(1 if structure == "dense" else a.vit_depth)
    return {
        "fpn": ([f"backbone.fpn_adjustment.adjustments.{i}" for i in levels], a.width),
        "encoder_layer": ([f"{ENCODER}.{i}.adjustment.hyperet" for i in range(a.encoder_layers)], a.width),
        "trunk_qv": ([f"{QKV}.{i}.attn.qkv.adjustment.{x}" for i in blocks for x in "qv"], a.vit_width),
        "encoder_out": (["transformer.decoder.adjustment.hyperet"], a.width),
        "pixel_decoder": ([f"segmentation_head.pixel_decoder.adjustment.adjustments.{i}" for i in levels], a.width),
        "prompt": (["backbone.prompt_adjustment.hyperet"], a.width),
    }[site]


def declared(site, structure, geometry, a):
    """Name and size of every parameter that a site adds."""
    if site == "attention":
        names = [f"{ENCODER}.{i}.{x}.gates" for i in range(a.encoder_layers) for x in ("self_attn", "cross_attn_image")]
        return {f"{name}.{gate}": a.heads for name in names for gate in ("curvature_gate", "distance_gate")}
    names, d = prefixes(site, structure, a)
    sizes = {f"{name}.matrix.offset": matrix_size(structure, d) for name in names}
    return sizes | ({f"{name}.translation": d for name in names} if geometry == "gyro" else {})


def added(model, base_names):
    return {name: p.numel() for name, p in model.named_parameters() if name not in base_names}


@pytest.fixture(scope="module")
def expected(base, picture):
    return answers(base, picture)


@pytest.mark.parametrize(
    ("site", "structure", "geometry"),
    [
        *((*pair, GEOMETRIES[(k + k // len(STRUCTURES)) % len(GEOMETRIES)]) for k, pair in PAIRS),
        *(("attention", "dense", geometry) for geometry in GEOMETRIES),
    ],
)
def test_every_kind(model, another, base, picture, expected, randomized, tmp_path, site, structure, geometry):
    config = hy.HyperETConfig(sites=[site], structure=structure, geometry=geometry)
    assert hy.inject(model, config) is model
    assert largest_relative_difference(answers(model, picture), expected) <= 1e-5

    names = {name for name, _ in base.named_parameters()}
    assert names <= {name for name, _ in model.named_parameters()}
    found = added(model, names)
    assert found == declared(site, structure, geometry, ARCHITECTURES["tiny"])
    assert dict(adapter_parameters(model)).keys() == found.keys()
    report = hy.parameter_report(model)
    assert (report["added"], report["total"]) == (sum(found.values()), sum(found.values()) + count(base))
    assert report["added_ratio"] == report["added"] / count(base) < 0.01

    randomized(model)
    moved = answers(model, picture)
    assert largest_relative_difference(moved, expected) > 1e-4
    with hy.adapters_disabled(model):
        assert equal(answers(model, picture), expected)

    hy.save_adapter(model, tmp_path / "adapter.safetensors")
    loaded = hy.load_adapter(another(), tmp_path / "adapter.safetensors")
    assert loaded.hyperet_config == config
    assert equal(answers(loaded, picture), moved)


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "A+B"},
        {"scheme": "A+B+C+P", "geometry": "gyro", "learn_curvature": True},
        {"sites": list(SITES), "structure": "diagonal", "residual": 0.3, "learn_residual": True},
        {"scheme": "B+C+P", "share": True, "structure": "banded"},
        {"scheme": "P", "share": False},
        {"scheme": "P", "blocks": [3, 0], "structure": "diagonal"},
        {"scheme": "B+C", "layers": [1]},
        {"scheme": "C", "attention": "self"},
        {"scheme": "C", "attention": "cross", "learn_curvature": True, "curvature": 1.0},
    ],
)
def test_combinations_and_options_round_trip(model, another, picture, expected, randomized, tmp_path, options):
    hy.inject(model, hy.HyperETConfig(**options))
    assert largest_relative_difference(answers(model, picture), expected) <= 1e-5
    randomized(model, scale=0.1)
    moved = answers(model, picture)
    with hy.adapters_disabled(model):
        assert equal(answers(model, picture), expected)
    hy.save_adapter(model, tmp_path / "adapter.safetensors")
    assert equal(answers(hy.load_adapter(another(), tmp_path / "adapter.safetensors"), picture), moved)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"scheme": "B", "share": True}, 64 * 64),
        ({"scheme": "B", "layers": [1]}, 64 * 64),
        ({"scheme": "C", "attention": "self"}, 2 * 2 * 4),
        ({"scheme": "C", "attention": "cross", "learn_curvature": True}, 2 * (2 * 4 + 1)),
        ({"scheme": "C", "share": True}, 2 * 2 * 4),
        ({"scheme": "P", "share": False}, 4 * 2 * 96 * 96),
        ({"scheme": "P", "share": True, "structure": "diagonal"}, 2 * 96),
        ({"scheme": "P", "blocks": [2], "structure": "diagonal"}, 2 * 96),
        ({"scheme": "A+B", "structure": "diagonal"}, 2 * 64 + 2 * 64),
        ({"sites": ["fpn", "prompt"], "structure": "diagonal"}, 2 * 64 + 64),
    ],
)
def test_added_parameters_of_options(model, options, size):
    hy.inject(model, hy.HyperETConfig(**options))
    assert hy.parameter_report(model)["added"] == size


@pytest.fixture(scope="module")
def large():
    with on_meta():
        return assemble(ARCHITECTURES["large"])


@pytest.mark.parametrize(
    ("site", "structure", "geometry"),
    [
        *((*pair, ("lorentz", "gyro")[(k + k // len(STRUCTURES)) % 2]) for k, pair in PAIRS),
        ("attention", "dense", "lorentz"),
    ],
)
def test_the_official_size_gets_less_than_one_percent(large, site, structure, geometry):
    names = {name for name, _ in large.named_parameters()}
    model = shallow_copy(large)
    hy.inject(model, hy.HyperETConfig(sites=[site], structure=structure, geometry=geometry))
    sizes = declared(site, structure, geometry, ARCHITECTURES["large"])
    assert added(model, names) == sizes
    report = hy.parameter_report(model)
    assert report["added"] == sum(sizes.values())
    assert round((report["total"] - report["added"]) / 1e6, 1) == 840.5
    assert 0 < report["added_ratio"] < 0.01


def shallow_copy(model):
    """A copy that shares the parameters, to be injected into."""
    tokenizer = model.backbone.language_backbone.tokenizer
    return copy.deepcopy(model, {id(x): x for x in (tokenizer, *model.parameters(), *model.buffers())})


def test_detection_and_segmentation_paths(model, another, picture, expected, randomized):
    """`encoder_out` leaves the semantic map alone, `pixel_decoder` the detections."""
    detection = differences(
        answers(randomized(hy.inject(model, hy.HyperETConfig(sites=["encoder_out"]))), picture), expected
    )
    assert detection["semantic"] == 0.0
    assert min(detection["scores"], detection["masks"]) > 1e-3
    segmentation = differences(
        answers(randomized(hy.inject(another(), hy.HyperETConfig(sites=["pixel_decoder"]))), picture), expected
    )
    assert segmentation["scores"] == segmentation["boxes"] == segmentation["presence"] == 0.0
    assert min(segmentation["semantic"], segmentation["masks"]) > 1e-3


@pytest.mark.parametrize("site", ["prompt", "fpn"])
def test_text_may_be_computed_twice_to_save_memory(model, randomized, site):
    """By sam3's switch, which makes the arguments from the signature."""
    randomized(hy.inject(model, hy.HyperETConfig(sites=[site])))
    features = []
    for recomputes in (False, True):
        model.backbone.act_ckpt_whole_language_backbone = model.backbone.training = recomputes
        features.append(model.backbone.forward_text(["car", "red house"], device="cpu")["language_features"])
    assert torch.equal(*features)
    if site == "prompt":
        adapters = [parameter for _, parameter in adapter_parameters(model)]
        gradients = [torch.autograd.grad(one.square().sum(), adapters) for one in features]
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_prompt_adjusts_text_alone(model, base, randomized):
    randomized(hy.inject(model, hy.HyperETConfig(sites=["prompt"])))
    before, after = (m.backbone.forward_text(["red car"], device="cpu") for m in (base, model))
    expected = model.backbone.prompt_adjustment.hyperet(before["language_features"])
    assert torch.equal(after["language_features"], expected)
    assert not torch.equal(expected, before["language_features"])
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        pyramids = [m.backbone.forward_image(image)["backbone_fpn"] for m in (base, model)]
    assert all(torch.equal(x, y) for x, y in zip(*pyramids, strict=True))


@pytest.mark.parametrize("pre_norm", [True, False])
def test_an_encoder_layer_is_adjusted_after_its_feed_forward_network(model, randomized, pre_norm):
    stock = model.transformer.encoder.layers[1]
    stock.pre_norm = pre_norm
    tokens, text = torch.randn(2, 9, 64), torch.randn(2, 5, 64)
    before = stock(tokens, text, query_pos=torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(1)))
    randomized(hy.inject(model, hy.HyperETConfig(scheme="B")))
    layer = model.transformer.encoder.layers[1]
    assert type(layer) is HyperETEncoderLayer
    assert layer.layer_idx == 1
    after = layer(tokens, text, query_pos=torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(after, layer.adjustment.hyperet(before))


def test_the_geometry_encoder_is_untouched(model):
    hy.inject(model, hy.HyperETConfig(scheme="A+B+C+P"))
    assert {type(layer) for layer in model.geometry_encoder.encode} == {host.TransformerEncoderLayer}
    assert {type(layer.self_attn) for layer in model.geometry_encoder.encode} == {host.MultiheadAttention}


def test_shared_adjustments_are_one_module(model):
    hy.inject(model, hy.HyperETConfig(scheme="B", share=True))
    first, second = model.transformer.encoder.layers
    assert first.adjustment is second.adjustment


@pytest.mark.parametrize("checkpoint_activations", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        *({"sites": [site], "structure": "dense"} for site in SITES),
        {"scheme": "A+B+C+P", "geometry": "gyro", "residual": 0.5, "learn_residual": True},
    ],
)
def test_gradients_reach_every_parameter_after_one_step(model, make_batch, options, checkpoint_activations):
    hy.inject(model, hy.HyperETConfig(**options))
    hy.set_stage(model, 1)
    loss = GroundingLoss(model, LossOptions())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=1e-3)
    batch = make_batch([("car", [(20, 20, 80, 70)]), ("sky", [])])
    for _ in range(2):
        set_training_mode(model, checkpoint_activations=checkpoint_activations)
        optimizer.zero_grad()
        loss(model, batch, model(batch))[TOTAL].backward()
        optimizer.step()
    assert trained.keys() == dict(adapter_parameters(model)).keys()
    gradients = {name: p.grad.abs().max().item() for name, p in trained.items()}
    # a gate that wants to close further than 0 has none
    closed = {name for name, p in trained.items() if name.endswith("_gate") and not p.any()}
    assert len(closed) < 3
    assert not [name for name, value in gradients.items() if not 0 < value < float("inf") and name not in closed]
    assert all(p.grad is None for name, p in model.named_parameters() if name not in trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scheme": "B", "layers": [2]},
            r"layers=\[2\]: the model has no layer of the fusion encoder 2; expected",
        ),
        ({"scheme": "C", "layers": [-1]}, r"no layer of the fusion encoder -1"),
        ({"scheme": "P", "blocks": [4]}, r"blocks=\[4\]: the model has no ViT block 4; expected from 0 to 3"),
        ({"sites": ["pixel_decoder"], "levels": [2]}, r"no FPN level 2"),
        ({"scheme": "A+B", "layers": [9]}, r"no layer of the fusion encoder 9"),
    ],
)
def test_what_is_not_there_is_an_error_and_nothing_changes(model, options, message):
    before = [(name, type(module)) for name, module in model.named_modules()]
    with pytest.raises(ConfigError, match=message):
        hy.inject(model, hy.HyperETConfig(**options))
    assert [(name, type(module)) for name, module in model.named_modules()] == before


def test_a_model_without_a_segmentation_head(model):
    model.segmentation_head = None
    with pytest.raises(ConfigError, match="pixel_decoder: the model has no segmentation head"):
        hy.inject(model, hy.HyperETConfig(sites=["pixel_decoder"]))


class AnotherLayer(host.TransformerEncoderLayer):
    pass


def test_a_module_of_another_class_or_compiled_is_refused(model, another):
    model.transformer.encoder.layers[0].__class__ = AnotherLayer
    with pytest.raises(
        ConfigError, match=r"found a AnotherLayer in the model; expected SAM 3's TransformerEncoderLayer"
    ):
        hy.inject(model, hy.HyperETConfig(scheme="B"))
    compiled = another()
    compiled.segmentation_head.pixel_decoder.forward = compiled.segmentation_head.pixel_decoder.forward
    with pytest.raises(ConfigError, match="PixelDecoder is compiled; inject first, then compile"):
        hy.inject(compiled, hy.HyperETConfig(sites=["pixel_decoder"]))
