"""Schemes B and C: adjustments between the layers of the fusion encoder, and hyperbolic attention inside them.

The geometry encoder's layers have the same class; only those in `transformer.encoder.layers` are touched.
"""

from __future__ import annotations

from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.attention import HyperbolicGates, HyperbolicMultiheadAttention
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites.site import SiteAdjustment, adjustments, chosen, extended, stock

ATTENTION_NAMES = {"self": "self_attn", "cross": "cross_attn_image"}


class HyperETEncoderLayer(host.TransformerEncoderLayer):  # type: ignore[misc]  # sam3 is untyped
    """A layer of the fusion encoder with an adjustment of its output, after the feed-forward network.

    `forward` is inherited: the activation-checkpointing wrapper reads its signature.
    """

    adjustment: SiteAdjustment

    def forward_pre(self, *args: object, **kwargs: object) -> Tensor:
        y: Tensor = self.adjustment(super().forward_pre(*args, **kwargs))
        return y

    def forward_post(self, *args: object, **kwargs: object) -> Tensor:
        y: Tensor = self.adjustment(super().forward_post(*args, **kwargs))
        return y


def install_layers(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Adjust the (B, positions, D) output of each chosen layer."""
    layers = model.transformer.encoder.layers
    indices = chosen("layers", config.layers, len(layers), "layer of the fusion encoder")
    names = ["encoder_layer"] if config.share else [f"encoder_layer.{i}" for i in indices]
    own = adjustments(config, len(names), model.hidden_dim, -1, layers)
    sites = [SiteAdjustment(name, adjustment) for name, adjustment in zip(names, own, strict=True)]
    for place, i in enumerate(indices):
        layers[i] = extended(layers[i], HyperETEncoderLayer, host.TransformerEncoderLayer)
        layers[i].adjustment = sites[0 if config.share else place].train(model.training)


def install_attention(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Replace the chosen attentions of each chosen layer by hyperbolic ones, each with gates of its own."""
    layers = model.transformer.encoder.layers
    kinds = [kind for kind in ATTENTION_NAMES if config.attention in (kind, "both")]
    shared = {kind: _gates(model, config, f"attention.{kind}") for kind in kinds} if config.share else {}
    for i in chosen("layers", config.layers, len(layers), "layer of the fusion encoder"):
        for kind in kinds:
            name = ATTENTION_NAMES[kind]
            attention = stock(getattr(layers[i], name), host.MultiheadAttention)
            gates = shared.get(kind) or _gates(model, config, f"attention.{i}.{kind}")
            setattr(layers[i], name, HyperbolicMultiheadAttention.from_attention(attention, gates))


def _gates(model: host.Sam3Image, config: HyperETConfig, name: str) -> HyperbolicGates:
    attention = model.transformer.encoder.layers[0].self_attn
    gates = HyperbolicGates(
        attention.num_heads,
        curvature=config.curvature,
        learn_curvature=config.learn_curvature,
        geometry="euclidean" if config.geometry == "euclidean" else "lorentz",
        name=name,
    )
    return gates.to(next(attention.parameters()).device).train(model.training)
