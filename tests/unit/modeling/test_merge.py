"""What folds is folded exactly, into SAM 3's own classes; what does not fold says why and changes nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from answers import answers, equal, largest_relative_difference

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import GEOMETRIES, STRUCTURES
from sam3_hyperet.errors import ConfigError

FOLDING = [
    *({"scheme": "P", "structure": s, "geometry": g} for s, g in itertools.product(STRUCTURES, GEOMETRIES)),
    *({"scheme": "A", "structure": s, "geometry": g} for s in STRUCTURES for g in ("euclidean", "mobius")),
    {"scheme": "A", "geometry": "euclidean", "residual": 0.4, "learn_residual": True},
    {"scheme": "A", "geometry": "mobius", "levels": [1], "residual": 0.4},
    {"scheme": "A+P", "geometry": "mobius", "share": True},
    {"sites": ["prompt"], "geometry": "euclidean"},
    {"sites": ["prompt", "fpn", "trunk_qv"], "geometry": "mobius", "structure": "banded"},
    {"scheme": "none"},
]


def structure_of(model):
    return [(name, type(module)) for name, module in model.named_modules()]


@pytest.mark.parametrize("options", FOLDING)
def test_the_merged_model_is_sam3s_own_with_the_same_outputs(model, base, picture, randomized, options):
    randomized(hy.inject(model, hy.HyperETConfig(**options)), scale=0.1)
    adapted = answers(model, picture)
    if options["scheme" if "scheme" in options else "sites"] != "none":
        assert largest_relative_difference(adapted, answers(base, picture)) > 1e-4
    assert hy.merge(model) is model
    assert largest_relative_difference(answers(model, picture), adapted) <= 1e-5
    assert structure_of(model) == structure_of(base)
    assert type(model.backbone) is host.SAM3VLBackbone
    assert model.state_dict().keys() == base.state_dict().keys()
    assert vars(model).keys() == vars(base).keys()
    assert vars(model.backbone).keys() == vars(base.backbone).keys()
    hy.inject(model, hy.HyperETConfig())  # as any other base


def test_merged_projections_are_bit_equal(model, picture, randomized):
    randomized(hy.inject(model, hy.HyperETConfig(scheme="P", geometry="gyro")), scale=0.1)
    adapted = answers(model, picture)
    assert equal(answers(hy.merge(model), picture), adapted)
    assert {type(block.attn.qkv) for block in model.backbone.vision_backbone.trunk.blocks} == {torch.nn.Linear}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "A"}, r"site fpn\.0 does not fold .*: geometry lorentz is not a linear map"),
        ({"scheme": "A", "geometry": "gyro"}, r"site fpn\.0 does not fold .*: geometry gyro"),
        ({"scheme": "B"}, r"site encoder_layer does not fold .*: it follows the residual sum"),
        ({"scheme": "C"}, r"site attention does not fold .*: its scores and means"),
        ({"scheme": "A+B", "geometry": "euclidean"}, r"site encoder_layer does not fold"),
        ({"sites": ["encoder_out"]}, r"site encoder_out does not fold .*: the segmentation head"),
        ({"sites": ["pixel_decoder"], "geometry": "euclidean"}, r"site pixel_decoder does not fold .*: the detector"),
        ({"sites": ["prompt"]}, r"site prompt does not fold .*: geometry lorentz"),
        ({"sites": ["trunk_qv", "prompt"]}, r"site prompt does not fold"),
        (
            {"scheme": "A", "geometry": "mobius", "curvature": 5.0},
            r"site fpn\.0 does not fold .*: a feature is \d+\.\d\d times as long as the norm cap",
        ),
        (
            {"sites": ["prompt"], "geometry": "mobius", "curvature": 50.0},
            r"site prompt does not fold .*: a feature is \d+\.\d\d times as long",
        ),
    ],
)
def test_what_does_not_fold_says_why_and_changes_nothing(model, picture, randomized, options, message):
    randomized(hy.inject(model, hy.HyperETConfig(**options)), scale=0.1)
    before, modules = answers(model, picture), structure_of(model)
    model.transformer.train()
    with pytest.raises(ConfigError, match=message):
        hy.merge(model)
    assert structure_of(model) == modules
    assert model.transformer.encoder.training
    assert not model.backbone.training
    model.eval()
    assert equal(answers(model, picture), before)


def test_the_cap_is_checked_on_the_given_pictures(model, randomized):
    randomized(hy.inject(model, hy.HyperETConfig(geometry="mobius")), scale=0.01)
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    model.backbone.vision_backbone.trunk.ln_pre = torch.nn.Identity()  # features then grow with the picture
    with torch.no_grad(), pytest.raises(ConfigError, match=r"norm cap"):
        hy.merge(model, images=image * 1e6)
    hy.merge(model, images=image)


def test_a_model_without_adapters(model):
    with pytest.raises(ConfigError, match="no adapters to merge"):
        hy.merge(model)
