"""Scheme A and the site `prompt`: a vision-language backbone that adjusts its feature pyramid, its text, or both."""

from __future__ import annotations

from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites.site import PyramidAdjustment, SiteAdjustment, adjustments, chosen, extended


class HyperETBackbone(host.SAM3VLBackbone):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's backbone with adjustments behind its neck and its text encoder; every base parameter keeps its name.

    Only what the detector reads is adjusted: features of a SAM 2 neck, if there is one, are left alone.
    """

    fpn_adjustment: PyramidAdjustment | None
    prompt_adjustment: SiteAdjustment | None

    def _forward_image_no_act_ckpt(self, samples: Tensor) -> dict[str, object]:
        output: dict[str, object] = super()._forward_image_no_act_ckpt(samples)
        if self.fpn_adjustment is not None:
            pyramid = self.fpn_adjustment(output["backbone_fpn"])
            output["backbone_fpn"] = pyramid
            output["vision_features"] = pyramid[-1]
        return output

    def _forward_text_no_ack_ckpt(self, *args: object, **kwargs: object) -> dict[str, object]:
        output: dict[str, object] = super()._forward_text_no_ack_ckpt(*args, **kwargs)
        if self.prompt_adjustment is not None:
            for name in {"language_features", "additional_text_features"} & output.keys():
                output[name] = self.prompt_adjustment(output[name])
        return output


def install_fpn(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust each chosen FPN level, (B, D, H, W), that the backbone returns."""
    neck = model.backbone.vision_backbone
    levels = chosen("levels", config.levels, len(neck.convs) - model.backbone.scalp, "FPN level")
    count = 1 if config.share else len(levels)
    adjustment = PyramidAdjustment("fpn", levels, adjustments(config, count, model.hidden_dim, 1, neck))
    _extend(model).fpn_adjustment = adjustment.train(model.training)


def install_prompt(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the text features, (words, prompts, D), before anything attends to them."""
    (adjustment,) = adjustments(config, 1, model.hidden_dim, -1, model.backbone.language_backbone)
    _extend(model).prompt_adjustment = SiteAdjustment("prompt", adjustment).train(model.training)


def _extend(model: host.Sam3Image) -> HyperETBackbone:
    if not isinstance(model.backbone, HyperETBackbone):
        model.backbone = extended(model.backbone, HyperETBackbone, host.SAM3VLBackbone)
        model.backbone.fpn_adjustment = model.backbone.prompt_adjustment = None
    backbone: HyperETBackbone = model.backbone
    return backbone
