"""A gate per prompt: how much of an adjustment a prompt gets, read off its words."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3_hyperet.hyperbolic.numerics import wide


def mean_text(text: Tensor, padding: Tensor | None) -> Tensor:
    """Mean over the tokens of B texts without padding, as in SAM 3's scoring: (T, B, D), (B, T) → (B, D), fp32.

    Of float64 in float64; 0 for a text of padding alone. None for no padding.
    """
    features = text.to(wide(text.dtype))
    if padding is None:
        return features.mean(dim=0)
    real = ~padding.t()[..., None]
    return torch.where(real, features, 0.0).sum(dim=0) / real.sum(dim=0).clamp_min(1)


class PromptGate(nn.Module):
    """2σ(w·t + b), between 0 and 2, by which the change that an adjustment makes is multiplied; 1 at first.

    t is the mean of a prompt's text features over its tokens without padding, normalised to mean 0 and variance 1 over
    its `dim` (D) channels. w and b, D + 1 parameters, are 0 at first. Computed in fp32 whatever the autocast dtype.

    Args:
        batch_dim: the axis of the prompts in the adjusted features, of three axes with the channels last.
    """

    def __init__(self, dim: int, batch_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(1))  # not a scalar, which sharded training refuses
        self._shape = (-1, 1, 1) if batch_dim == 0 else (1, -1, 1)

    def forward(self, text: Tensor, padding: Tensor | None) -> Tensor:
        """The gates of B prompts, shaped to multiply features; `text` is (tokens, B, D), `padding` (B, tokens)."""
        with torch.autocast(text.device.type, enabled=False):
            pooled = mean_text(text, padding)
            t = F.layer_norm(pooled, pooled.shape[-1:])
            logits = t @ self.weight.to(t.dtype) + self.bias.to(t.dtype)
            return 2.0 * torch.sigmoid(logits).view(self._shape)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}"
