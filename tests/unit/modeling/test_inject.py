"""Adapters go in without a copy, a renamed key or a changed output, and can be switched off exactly."""

from __future__ import annotations

import pytest
import torch
from answers import answers, equal, largest_relative_difference

import sam3_hyperet as hy
from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.adjustment import HyperET
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.modeling.config import SITES
from sam3_hyperet.modeling.parameters import adapter_sites
from sam3_hyperet.modeling.sites import table
from sam3_hyperet.modeling.sites.pyramid import HyperETBackbone

D = 64


@pytest.fixture(scope="module")
def expected(base, picture):
    return answers(base, picture)


@pytest.mark.parametrize(
    "options",
    [
        {"learn_curvature": True},
        {"residual": 0.3},
        {"residual": 0.3, "learn_residual": True},
        {"share": True},
        {"levels": [1]},
        {"levels": [0]},
        {"levels": [1, 0]},
        {"levels": [1], "share": True},
        {"curvature": 10.0, "geometry": "gyro", "learn_curvature": True},
        {"structure": "block_diagonal", "block_size": 16},
        {"structure": "banded", "bandwidth": 4},
        {"scheme": "none"},
        {"scheme": "none", "sites": ["fpn"]},
    ],
)
def test_every_option_is_an_identity_at_init(model, picture, expected, options):
    hy.inject(model, hy.HyperETConfig(**options))
    assert largest_relative_difference(answers(model, picture), expected) <= 1e-5


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({"share": True}, D * D),
        ({"levels": [1]}, D * D),
        ({"learn_curvature": True}, 2 * (D * D + 1)),
        ({"residual": 0.3}, 2 * D * D),
        ({"residual": 0.3, "learn_residual": True}, 2 * (D * D + 1)),
        ({"scheme": "none"}, 0),
    ],
)
def test_added_parameters_of_options(model, options, added):
    hy.inject(model, hy.HyperETConfig(**options))
    assert hy.parameter_report(model)["added"] == added


def pyramid(model):
    with torch.no_grad():
        image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
        return model.backbone.forward_image(image)


@pytest.mark.parametrize("levels", [[0], [1], [0, 1], [1, 0]])
@pytest.mark.parametrize("share", [False, True])
def test_only_the_chosen_levels_are_adjusted(model, base, randomized, levels, share):
    hy.inject(model, hy.HyperETConfig(levels=levels, share=share))
    randomized(model)
    before, after = pyramid(base), pyramid(model)
    assert after["vision_features"] is after["backbone_fpn"][-1]
    for level, (x, y) in enumerate(zip(before["backbone_fpn"], after["backbone_fpn"], strict=True)):
        assert torch.equal(x, y) == (level not in levels)
        if level in levels:
            adjustments = model.backbone.fpn_adjustment.adjustments
            own = adjustments[0 if share else levels.index(level)]
            assert torch.equal(y, own(x))


def test_base_weights_are_shared_not_copied(model):
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    text, trunk = model.backbone.language_backbone, model.backbone.vision_backbone.trunk
    hy.inject(model, hy.HyperETConfig())
    after = dict(model.named_parameters())
    assert {name: after[name].data_ptr() for name in before} == before
    assert isinstance(model.backbone, HyperETBackbone)
    assert isinstance(model.backbone, host.SAM3VLBackbone)
    assert model.backbone.language_backbone is text
    assert model.backbone.vision_backbone.trunk is trunk


@pytest.mark.parametrize("training", [False, True])
def test_adapters_take_the_mode_of_the_model(model, training):
    model.train(training)
    hy.inject(model, hy.HyperETConfig())
    assert {module.training for module in model.modules()} == {training}


def test_adapters_follow_the_device_of_the_model():
    from sam3_hyperet.modeling.build import build_model

    model = build_model("tiny", checkpoint="random").to("meta")
    hy.inject(model, hy.HyperETConfig(geometry="gyro"))
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_double_inject_is_refused(model):
    hy.inject(model, hy.HyperETConfig())
    with pytest.raises(ConfigError, match="already has adapters"):
        hy.inject(model, hy.HyperETConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": [0, 7]}, r"levels=\[0, 7\]: the model has no FPN level 7; expected from 0 to 1"),
        ({"levels": [-1]}, r"no FPN level -1"),
        ({"structure": "block_diagonal", "block_size": 7}, r"block_size must divide dim=64"),
        ({"structure": "banded", "bandwidth": 64}, r"bandwidth must be from 0 to 63"),
        ({"curvature": 1e9}, r"curvature must lie strictly between"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_and_nothing_changes(model, options, message):
    before = [name for name, _ in model.named_parameters()]
    with pytest.raises(ConfigError, match=message):
        hy.inject(model, hy.HyperETConfig(**options))
    assert [name for name, _ in model.named_parameters()] == before
    hy.inject(model, hy.HyperETConfig())


def test_disabling_nests_and_survives_an_error(model, picture, expected, randomized):
    randomized(hy.inject(model, hy.HyperETConfig()))
    with hy.adapters_disabled(model):
        with pytest.raises(KeyError), hy.adapters_disabled(model):
            raise KeyError
        assert equal(answers(model, picture), expected)
    assert all(site.enabled for site in adapter_sites(model).values())


def test_a_stock_backbone_with_a_sam2_neck(model, randomized):
    """As `sam3.model_builder` makes it with instance interactivity: SAM 2's features stay as they were."""
    from sam3_hyperet.modeling.build import ARCHITECTURES, _position_encoding

    sizes = ARCHITECTURES["tiny"]
    neck = host.Sam3DualViTDetNeck(
        trunk=model.backbone.vision_backbone.trunk,
        position_encoding=_position_encoding(sizes),
        d_model=sizes.width,
        scale_factors=list(sizes.scale_factors),
        add_sam2_neck=True,
    )
    model.backbone = host.SAM3VLBackbone(visual=neck, text=model.backbone.language_backbone, scalp=1).eval()
    before = pyramid(model)
    hy.inject(model, hy.HyperETConfig())
    at_init = pyramid(model)
    randomized(model)
    after = pyramid(model)
    for x, y, z in zip(before["backbone_fpn"], at_init["backbone_fpn"], after["backbone_fpn"], strict=True):
        assert torch.equal(x, y)
        assert not torch.equal(x, z)
    old, new = before["sam2_backbone_out"], after["sam2_backbone_out"]
    assert torch.equal(old["vision_features"], new["vision_features"])
    assert all(torch.equal(x, y) for x, y in zip(old["backbone_fpn"], new["backbone_fpn"], strict=True))
    assert all(torch.equal(x, y) for x, y in zip(before["vision_pos_enc"], after["vision_pos_enc"], strict=True))


@pytest.mark.parametrize("adapted", [False, True])
def test_sam3s_own_processor_gives_what_the_predictor_gives(model, picture, randomized, adapted):
    if adapted:
        randomized(hy.inject(model, hy.HyperETConfig()))
    processor = host.Sam3Processor(model, resolution=hy.resolution(model), device="cpu", confidence_threshold=0.0)
    (answer,) = Predictor(model, ["red car"], 128).predict(picture)
    state = processor.set_text_prompt("red car", processor.set_image(picture))
    size = torch.tensor([picture.width, picture.height] * 2)
    assert len(state["scores"]) == 12
    torch.testing.assert_close(state["scores"], answer.scores, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(state["boxes"], answer.boxes * size, rtol=1e-6, atol=1e-4)
    probabilities = answer.mask_probabilities(picture.height, picture.width)
    torch.testing.assert_close(state["masks_logits"][:, 0], probabilities, rtol=1e-6, atol=1e-6)
    assert torch.equal(state["masks"][:, 0], probabilities > 0.5)


def test_bfloat16_autocast_keeps_the_identity(model, base):
    hy.inject(model, hy.HyperETConfig(geometry="gyro"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before, after = pyramid(base), pyramid(model)
    for x, y in zip(before["backbone_fpn"], after["backbone_fpn"], strict=True):
        assert x.dtype == y.dtype
        assert torch.equal(x, y)


def test_every_site_of_the_configuration_is_in_the_table():
    assert tuple(table.SITES) == SITES


def test_adjustments_are_hyperet_modules(model):
    hy.inject(model, hy.HyperETConfig())
    (site,) = adapter_sites(model).values()
    assert all(isinstance(module, HyperET) and module.channel_dim == 1 for module in site.adjustments)
    assert site.level(1) is site.adjustments[1]


class StudentTrunk(torch.nn.Module):
    """As EfficientSAM3 puts a distilled encoder in the place of SAM 3's, whose other classes it keeps."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.channel_list = model, model.channel_list

    def forward(self, x):
        return self.model(x)


def test_a_foreign_trunk_is_named_and_leaves_the_other_schemes(model):
    neck = model.backbone.vision_backbone
    neck.trunk = StudentTrunk(neck.trunk)
    pixels = torch.zeros(1, 3, 128, 128)
    with torch.no_grad():
        before = model.backbone.forward_image(pixels)["vision_features"]
        with pytest.raises(ConfigError, match=r"found a test_inject\.StudentTrunk as the model's image trunk"):
            hy.inject(model, {"scheme": "A+P"})
        hy.inject(model, {"scheme": "A+B+C"})
        assert torch.equal(model.backbone.forward_image(pixels)["vision_features"], before)
