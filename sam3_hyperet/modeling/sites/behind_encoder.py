"""Sites behind the fusion encoder: `encoder_out` on the detection path, `pixel_decoder` on the segmentation path."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites.site import PyramidAdjustment, SiteAdjustment, adjustments, chosen, extended


class HyperETDecoder(host.TransformerDecoder):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's decoder of object queries on adjusted memory; the segmentation head keeps the encoder's own."""

    adjustment: SiteAdjustment

    def forward(self, tgt: Tensor, memory: Tensor, *args: object, **kwargs: object) -> object:
        return super().forward(tgt, self.adjustment(memory), *args, **kwargs)


class HyperETPixelDecoder(host.PixelDecoder):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's pixel decoder on an adjusted pyramid, whose last level is the encoder's memory; the detector keeps the
    originals."""

    adjustment: PyramidAdjustment

    def forward(self, backbone_feats: Sequence[Tensor]) -> Tensor:
        embedding: Tensor = super().forward(self.adjustment(backbone_feats))
        return embedding


def install_encoder_out(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the (positions, B, D) memory that the decoder attends to."""
    decoder = extended(model.transformer.decoder, HyperETDecoder, host.TransformerDecoder)
    (adjustment,) = adjustments(config, 1, model.hidden_dim, -1, decoder)
    decoder.adjustment = SiteAdjustment("encoder_out", adjustment).train(model.training)
    model.transformer.decoder = decoder


def install_pixel_decoder(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust each chosen level, (B, D, H, W), that the segmentation head's pixel decoder reads."""
    head = model.segmentation_head
    if head is None:
        raise ConfigError("site pixel_decoder: the model has no segmentation head")
    neck = model.backbone.vision_backbone
    levels = chosen("levels", config.levels, len(neck.convs) - model.backbone.scalp, "FPN level")
    decoder = extended(head.pixel_decoder, HyperETPixelDecoder, host.PixelDecoder)
    count = 1 if config.share else len(levels)
    adjustment = PyramidAdjustment("pixel_decoder", levels, adjustments(config, count, model.hidden_dim, 1, head))
    decoder.adjustment = adjustment.train(model.training)
    head.pixel_decoder = decoder
