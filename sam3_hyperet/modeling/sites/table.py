"""The table of sites: how each gets its adapters, and which layers feed it."""

from collections.abc import Callable
from typing import NamedTuple

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites import attention, pyramid, tokens, trunk_qv


class Site(NamedTuple):
    """How a place gets its adapters, and the names of the layers whose outputs reach it, where controls go instead."""

    install: Callable[[host.Sam3Image, HyperETConfig], None]
    feeding: Callable[[host.Sam3Image, HyperETConfig], list[str]]


SITES = {
    "fpn": Site(pyramid.install_fpn, pyramid.fpn_convolutions),
    "encoder_layer": Site(tokens.install_layers, tokens.feed_forward_outputs),
    "attention": Site(attention.install_attention, attention.feed_forward_inputs),
    "trunk_qv": Site(trunk_qv.install_qv, trunk_qv.query_key_value_projections),
    "encoder_out": Site(tokens.install_encoder_out, tokens.last_feed_forward_output),
    "pixel_decoder": Site(pyramid.install_pixel_decoder, pyramid.pixel_decoder_convolutions),
    "prompt": Site(tokens.install_prompt, lambda model, config: ["backbone.language_backbone.resizer"]),
}
