"""Hyperbolic multi-head attention (scheme C), with the parameter names of PyTorch's."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3_hyperet.adapters.attention_functional import distance_attention, hyperbolic_attention, unit_interval
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.adapters.module import AdapterModule, interpolated
from sam3_hyperet.hyperbolic.curvature import NO_CURVATURE, Curvature
from sam3_hyperet.hyperbolic.numerics import wide

ATTENTION_GEOMETRIES = ("lorentz", "euclidean")


class HyperbolicGates(AdapterModule):
    """The added parameters of one attention: two gates a head, in [0, 1] and 0 at first, and one curvature.

    - `lorentz`    head h has curvature c_h = u_h c, with u the `curvature_gate`, and distance gate g_h.
    - `euclidean`  the control of equal parameter count: c_h = 0, and u_h is a temperature instead,
      ℓ = (1 + u_h)⟨q, k⟩ − g_h‖k‖²/2.

    The curvature c > 0 itself, trained if `learn_curvature`, has a gradient only where a curvature gate is not 0.
    Raises ValueError for options that cannot be.
    """

    def __init__(
        self,
        num_heads: int,
        curvature: float = 0.01,
        learn_curvature: bool = False,
        geometry: str = "lorentz",
        name: str = "attention",
    ) -> None:
        super().__init__(name, "its scores and means are not those of a dot product")
        if geometry not in ATTENTION_GEOMETRIES:
            expected = ", ".join(ATTENTION_GEOMETRIES)
            raise ValueError(f"geometry of attention must be one of {expected}; found {geometry!r}")
        if geometry == "euclidean" and learn_curvature:
            raise ValueError(NO_CURVATURE)
        self.num_heads, self.geometry = num_heads, geometry
        self.curvature_gate = nn.Parameter(torch.zeros(num_heads))
        self.distance_gate = nn.Parameter(torch.zeros(num_heads))
        self.curvature = Curvature(curvature, learn_curvature)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """Attend; shapes and options as for `hyperbolic_attention`."""
        u, g = unit_interval(self.curvature_gate), unit_interval(self.distance_gate)
        if self.geometry == "euclidean":
            return distance_attention(query, key, value, 1.0 + u, g, **options)
        return hyperbolic_attention(query, key, value, self._curvatures(u), g, **options)

    def _curvatures(self, u: Tensor) -> Tensor:
        """c_h = u_h c, in the dtype of c, which half precision does not round."""
        c: Tensor = self.curvature()
        return u.to(c.dtype) * c

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """Means over the heads: `curvature` c_h, `curvature_gate` u_h and `distance_gate` g_h."""
        u, g = unit_interval(self.curvature_gate), unit_interval(self.distance_gate)
        curvature = self._curvatures(u) if self.geometry == "lorentz" else torch.zeros_like(u)
        means = {"curvature": curvature, "curvature_gate": u, "distance_gate": g}
        return {name: values.mean().item() for name, values in means.items()}

    def extra_repr(self) -> str:
        return f"{self.name}, num_heads={self.num_heads}, geometry={self.geometry}"


class HyperbolicMultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose heads attend through `gates`, and the same to the last bit while they are off."""

    gates: HyperbolicGates

    @classmethod
    def from_attention(cls, attention: nn.MultiheadAttention, gates: HyperbolicGates) -> "HyperbolicMultiheadAttention":
        """The same attention, sharing its tensors, with gates. Raises ValueError for what these cannot have."""
        if not attention._qkv_same_embed_dim or attention.bias_k is not None or attention.add_zero_attn:
            raise ValueError(
                "hyperbolic attention needs keys and values of the size of queries (no kdim, vdim), and neither "
                f"add_bias_kv nor add_zero_attn; found kdim={attention.kdim}, vdim={attention.vdim}, "
                f"embed_dim={attention.embed_dim}, add_bias_kv={attention.bias_k is not None}, "
                f"add_zero_attn={attention.add_zero_attn}"
            )
        if gates.num_heads != attention.num_heads:
            raise ValueError(f"the attention has {attention.num_heads} heads; found gates for {gates.num_heads}")
        result = converted(attention, cls)
        result.gates = gates
        return result

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`, but the weights are never formed: `(output, None)`.

        `is_causal` is a hint about `attn_mask`; ValueError for the hint without the mask, and for need_weights=True.
        """
        if need_weights:
            raise ValueError("hyperbolic attention forms no attention weights; call it with need_weights=False")
        strength = self.gates.dial if self.gates.enabled else 0.0
        if strength == 1.0:
            return self._attended(query, key, value, key_padding_mask, attn_mask, is_causal), None
        base, _ = super().forward(query, key, value, key_padding_mask, False, attn_mask, is_causal=is_causal)
        if strength == 0.0:
            return base, None
        adapted = self._attended(query, key, value, key_padding_mask, attn_mask, is_causal)
        with torch.autocast(base.device.type, enabled=False):
            start, end = (one.to(wide(base.dtype)) for one in (base, adapted))
            return interpolated(start, end, strength).to(base.dtype), None

    def _attended(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        is_causal: bool = False,
    ) -> Tensor:
        """The output through the gates."""
        if is_causal and attn_mask is None:
            raise ValueError("is_causal is a hint about attn_mask, as in nn.MultiheadAttention; found attn_mask=None")
        if query.ndim == 2:
            batch = 0 if self.batch_first else 1
            query, key, value = (x.unsqueeze(batch) for x in (query, key, value))
            padding = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
            return self._attended(query, key, value, padding, attn_mask).squeeze(batch)
        q, k, v = self._projected(query, key, value)
        mask = _merged_mask(key_padding_mask, attn_mask, q)
        attended = self.gates(q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0)
        heads_last = attended.permute(0, 2, 1, 3) if self.batch_first else attended.permute(2, 0, 1, 3)
        output: Tensor = self.out_proj(heads_last.flatten(-2))
        return output

    def _projected(self, *tokens: Tensor) -> list[Tensor]:
        """Queries, keys and values as `(B, H, N, d)`."""
        weights = self.in_proj_weight.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        axes = (0, 2, 1, 3) if self.batch_first else (1, 2, 0, 3)
        return [
            F.linear(x, weight, bias).view(*x.shape[:2], self.num_heads, self.head_dim).permute(axes)
            for x, weight, bias in zip(tokens, weights, biases, strict=True)
        ]


def _merged_mask(key_padding_mask: Tensor | None, attn_mask: Tensor | None, heads: Tensor) -> Tensor | None:
    """Both masks, in `nn.MultiheadAttention`'s sense, as one to add to the logits; padding alone is `(B, 1, 1, S)`."""
    padding = None if key_padding_mask is None else _additive(key_padding_mask, heads.dtype)[:, None, None]
    if attn_mask is None:
        return padding
    additive = _additive(attn_mask, heads.dtype)
    if attn_mask.ndim == 3:
        additive = additive.reshape(-1, heads.shape[1], *attn_mask.shape[1:])
    return additive if padding is None else padding + additive


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
    return mask
