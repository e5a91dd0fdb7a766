"""Vision encoders of timm, transformers and PyTorch, small and with random weights; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

SIDE = 32
_WIDTH = 24
_TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "timm_vit": ("vit_small_patch16_224", {"patch_size": 8}),
    "timm_dinov2": ("vit_small_patch14_reg4_dinov2", {"patch_size": 8}),
    "timm_dinov3": ("vit_small_patch16_dinov3", {"patch_size": 8}),
    "timm_dinov3_qkv_bias": ("vit_small_patch16_dinov3_qkvb", {"patch_size": 8}),
    "timm_eva_separate": ("eva02_tiny_patch14_224", {"patch_size": 8, "qkv_fused": False}),
    "timm_clip": ("vit_base_patch16_clip_224", {"patch_size": 8}),
    "timm_sam": ("samvit_base_patch16", {"patch_size": 8, "global_attn_indexes": (1,), "window_size": 2}),
}
_SIZES = {"image_size": SIDE, "patch_size": 8, "hidden_size": _WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
TIMM = tuple(_TIMM)
TRANSFORMERS = ("transformers_vit", "transformers_dinov2", "transformers_clip", "transformers_sam")
ENCODERS = (*TIMM, *TRANSFORMERS, "torch_attention")


def small_encoder(name: str, side: int = SIDE, **options: Any) -> nn.Module:
    """An encoder by its name in `ENCODERS`, in evaluation mode, with the same random weights for the same side."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name in _TIMM:
            import timm

            architecture, own = _TIMM[name]
            sizes = {"img_size": side, "embed_dim": _WIDTH, "depth": 2, "num_heads": 2, "num_classes": 0}
            model = timm.create_model(architecture, pretrained=False, **{**sizes, **own, **options})
        else:
            model = TorchAttention() if name == "torch_attention" else _of_transformers(name)
        with torch.no_grad():  # some start at layers that pass nearly nothing on
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        return model.eval()


def patches_of(name: str, model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What an encoder makes of (B, 3, S, S) pixels."""
    if name in TIMM:
        return model.forward_features(pixels)
    out = model(pixels)
    return out if isinstance(out, torch.Tensor) else out.last_hidden_state


class TorchAttention(nn.Module):
    """Patches, two blocks of `nn.TransformerEncoderLayer`, as in encoders that use PyTorch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, _WIDTH, 8, 8)
        options: dict[str, Any] = {"batch_first": True, "dropout": 0.0}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(_WIDTH, 2, 48, **options) for _ in range(2))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.patches(pixels).flatten(2).mT
        for layer in self.layers:
            x = layer(x)
        return x


def _of_transformers(name: str) -> nn.Module:
    import transformers as hf

    if name == "transformers_vit":
        return hf.ViTModel(hf.ViTConfig(**_SIZES, intermediate_size=48), add_pooling_layer=False)
    if name == "transformers_dinov2":
        return hf.Dinov2Model(hf.Dinov2Config(**_SIZES, mlp_ratio=2))
    if name == "transformers_clip":
        return hf.CLIPVisionModel(hf.CLIPVisionConfig(**_SIZES, intermediate_size=48))
    config = hf.SamVisionConfig(**_SIZES, mlp_dim=48, output_channels=16, global_attn_indexes=[1], window_size=2)
    return hf.SamVisionModel(config)
