"""Scheme A: a vision-language backbone that adjusts every level of its feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.adjustment import HyperET


class FPNAdjustment(nn.Module):
    """One adjustment per chosen pyramid level, or one shared by all of them.

    Args:
        levels: the adjusted levels' indices, highest resolution first.
        adjustments: one for each of `levels`, or a single one for all.
    """

    is_adapter = True

    def __init__(self, levels: Sequence[int], adjustments: Sequence[HyperET]) -> None:
        super().__init__()
        self.indices = tuple(levels)
        self.adjustments = nn.ModuleList(adjustments)
        self.enabled = True

    def level(self, index: int) -> HyperET:
        """The adjustment of pyramid level `index`."""
        adjustment = self.adjustments[self.indices.index(index) if len(self.adjustments) > 1 else 0]
        assert isinstance(adjustment, HyperET)
        return adjustment

    def site_name(self, child: str) -> str:
        """Name in metrics of the adjustment that is this module's descendant `child`: "fpn.<level>"."""
        return f"fpn.{self.indices[int(child.rpartition('.')[2])]}" if len(self.adjustments) > 1 else "fpn"

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Adjust the chosen levels of a pyramid of (B, D, H, W) features; the others pass through."""
        if not self.enabled:
            return list(features)
        return [self.level(i)(x) if i in self.indices else x for i, x in enumerate(features)]


class HyperETBackbone(host.SAM3VLBackbone):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's backbone with an `FPNAdjustment` behind the neck; every base parameter keeps its name.

    Only what the detector reads is adjusted: features of a SAM 2 neck, if there is one, are left alone.
    """

    fpn_adjustment: FPNAdjustment

    @classmethod
    def from_backbone(cls, backbone: host.SAM3VLBackbone, adjustment: FPNAdjustment) -> HyperETBackbone:
        """Take over the modules and settings of an existing backbone, copying no weight."""
        adjusted = cls.__new__(cls)
        nn.Module.__init__(adjusted)
        adjusted.__dict__.update(backbone.__dict__)
        adjusted._modules = dict(backbone._modules)
        adjusted.fpn_adjustment = adjustment.train(backbone.training)
        return adjusted

    def _forward_image_no_act_ckpt(self, samples: Tensor) -> dict[str, object]:
        output: dict[str, object] = super()._forward_image_no_act_ckpt(samples)
        pyramid = self.fpn_adjustment(output["backbone_fpn"])
        output["backbone_fpn"] = pyramid
        output["vision_features"] = pyramid[-1]
        return output
