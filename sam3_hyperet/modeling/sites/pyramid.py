"""Sites of the feature pyramid: `fpn` (scheme A), read by everything behind, and `pixel_decoder`, by masks alone."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites.site import PyramidAdjustment, SiteAdjustment, adjustments, chosen, extended, folded

_TEXTS = {"language_features": "language_mask", "additional_text_features": "additional_text_mask"}
OF_SHARED_FEATURES = "the detector reads the same features without it, and its last level is a residual sum"


class FpnAdjustment(PyramidAdjustment):
    """Adjustments behind the last convolution of each level of the neck."""

    def fold(self, model: nn.Module) -> list[tuple[Tensor, Tensor]]:
        assert isinstance(model, host.Sam3Image)
        convs = model.backbone.vision_backbone.convs
        levels = [(convs[i][-1], self.level(i), f"{self.name}.{i}") for i in self.indices]
        return [pair for level in levels for pair in folded(*level, self.dial)]


class HyperETBackbone(host.SAM3VLBackbone):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's backbone, adjusted where the detector reads it; features of a SAM 2 neck, if any, are left alone."""

    fpn_adjustment: PyramidAdjustment | None
    prompt_adjustment: SiteAdjustment | None

    def _forward_image_no_act_ckpt(self, samples: Tensor) -> dict[str, object]:
        output: dict[str, object] = super()._forward_image_no_act_ckpt(samples)
        if self.fpn_adjustment is not None:
            output["backbone_fpn"] = pyramid = self.fpn_adjustment(output["backbone_fpn"])
            output["vision_features"] = pyramid[-1]
        return output

    # with sam3's own parameters: its activation-checkpointing wrapper makes the arguments from the signature
    def _forward_text_no_ack_ckpt(
        self,
        captions: Sequence[str],
        input_boxes: object = None,
        additional_text: Sequence[str] | None = None,
        device: str | torch.device = "cuda",
    ) -> dict[str, object]:
        output: dict[str, object] = super()._forward_text_no_ack_ckpt(captions, input_boxes, additional_text, device)
        if self.prompt_adjustment is not None:
            for name, mask in _TEXTS.items():
                if name in output:
                    output[name] = self.prompt_adjustment(output[name], output[name], output[mask])
        return output


class HyperETPixelDecoder(host.PixelDecoder):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's pixel decoder on an adjusted pyramid; the detector keeps the pyramid as it was."""

    adjustment: PyramidAdjustment

    def forward(self, backbone_feats: Sequence[Tensor]) -> Tensor:
        embedding: Tensor = super().forward(self.adjustment(backbone_feats))
        return embedding


def install_fpn(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust each chosen FPN level, (B, D, H, W), of the backbone."""
    indices = _levels(model, config)
    own = adjustments(config, 1 if config.share else len(indices), model.hidden_dim, 1, model.backbone.vision_backbone)
    extended_backbone(model).fpn_adjustment = FpnAdjustment("fpn", indices, own).train(model.training)


def install_pixel_decoder(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust each chosen level, (B, D, H, W), that the pixel decoder reads."""
    head, indices = _segmentation_head(model), _levels(model, config)
    own = adjustments(config, 1 if config.share else len(indices), model.hidden_dim, 1, head)
    site = PyramidAdjustment("pixel_decoder", indices, own, OF_SHARED_FEATURES).train(model.training)
    head.pixel_decoder = extended(head.pixel_decoder, HyperETPixelDecoder, host.PixelDecoder)
    head.pixel_decoder.adjustment = site


def extended_backbone(model: host.Sam3Image) -> HyperETBackbone:
    """The model's backbone as one with adjustments, none at first."""
    if not isinstance(model.backbone, HyperETBackbone):
        model.backbone = extended(model.backbone, HyperETBackbone, host.SAM3VLBackbone)
        model.backbone.fpn_adjustment = model.backbone.prompt_adjustment = None
    backbone: HyperETBackbone = model.backbone
    return backbone


def fpn_convolutions(model: host.Sam3Image, config: HyperETConfig) -> list[str]:
    """The last convolutions of the chosen levels."""
    return [f"backbone.vision_backbone.convs.{i}.conv_3x3" for i in _levels(model, config)]


def pixel_decoder_convolutions(model: host.Sam3Image, config: HyperETConfig) -> list[str]:
    """The convolutions that read the chosen levels: the first the two lowest, each other one the next higher."""
    decoder, neck = _segmentation_head(model).pixel_decoder, model.backbone.vision_backbone
    above = len(neck.convs) - model.backbone.scalp - 2
    readers = {0 if decoder.shared_conv else max(0, above - level) for level in _levels(model, config)}
    return [f"segmentation_head.pixel_decoder.conv_layers.{i}" for i in readers]


def _levels(model: host.Sam3Image, config: HyperETConfig) -> tuple[int, ...]:
    backbone = model.backbone
    return chosen("levels", config.levels, len(backbone.vision_backbone.convs) - backbone.scalp, "FPN level")


def _segmentation_head(model: host.Sam3Image) -> host.UniversalSegmentationHead:
    if model.segmentation_head is None:
        raise ConfigError("site pixel_decoder: the model has no segmentation head")
    return model.segmentation_head
