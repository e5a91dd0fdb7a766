"""The site `attention` (scheme C): hyperbolic attention in the layers of the fusion encoder."""

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.attention import HyperbolicGates, HyperbolicMultiheadAttention
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites.site import stock
from sam3_hyperet.modeling.sites.tokens import encoder_layers

_ATTRIBUTES = {"self": "self_attn", "cross": "cross_attn_image"}


def install_attention(model: host.Sam3Image, config: HyperETConfig) -> None:
    """Replace the chosen attentions of the chosen layers by hyperbolic ones."""
    layers = model.transformer.encoder.layers
    kinds = [kind for kind in _ATTRIBUTES if config.attention in (kind, "both")]
    shared = {kind: _gates(model, config, f"attention.{kind}") for kind in kinds} if config.share else {}
    for i in encoder_layers(model, config):
        for kind in kinds:
            attention = stock(getattr(layers[i], _ATTRIBUTES[kind]), host.MultiheadAttention)
            gates = shared.get(kind) or _gates(model, config, f"attention.{i}.{kind}")
            setattr(layers[i], _ATTRIBUTES[kind], HyperbolicMultiheadAttention.from_attention(attention, gates))


def feed_forward_inputs(model: host.Sam3Image, config: HyperETConfig) -> list[str]:
    """The first linear layers behind the attentions; a control of their own projections, never called, is dead."""
    return [f"transformer.encoder.layers.{i}.linear1" for i in encoder_layers(model, config)]


def _gates(model: host.Sam3Image, config: HyperETConfig, name: str) -> HyperbolicGates:
    attention = model.transformer.encoder.layers[0].self_attn
    geometry = "euclidean" if config.geometry == "euclidean" else "lorentz"
    gates = HyperbolicGates(attention.num_heads, config.curvature, config.learn_curvature, geometry, name)
    return gates.to(next(attention.parameters()).device).train(model.training)
