"""The table of sites: how each gets its adapters, and which layers feed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.config import HyperETConfig
from sam3_hyperet.modeling.sites.attention import feed_forward_inputs, install_attention
from sam3_hyperet.modeling.sites.pyramid import (
    install_fpn,
    install_pixel_decoder,
    pixel_decoder_convolutions,
    pyramid_convolutions,
)
from sam3_hyperet.modeling.sites.tokens import (
    feed_forward_outputs,
    install_encoder_out,
    install_layers,
    install_prompt,
    last_feed_forward_output,
    text_resizer,
)
from sam3_hyperet.modeling.sites.trunk_qv import install_qv, query_key_value_projections


class Site(NamedTuple):
    """A place for adapters; how one folds into the base is a method of the adapter itself.

    Attributes:
        install: adds the adapters of a configuration to a model.
        feeding: names of the linear layers and convolutions whose outputs reach the site: where LoRA goes instead.
    """

    install: Callable[[host.Sam3Image, HyperETConfig], None]
    feeding: Callable[[host.Sam3Image, HyperETConfig], list[str]]


SITES = {
    "fpn": Site(install_fpn, pyramid_convolutions),
    "encoder_layer": Site(install_layers, feed_forward_outputs),
    "attention": Site(install_attention, feed_forward_inputs),
    "trunk_qv": Site(install_qv, query_key_value_projections),
    "encoder_out": Site(install_encoder_out, last_feed_forward_output),
    "pixel_decoder": Site(install_pixel_decoder, pixel_decoder_convolutions),
    "prompt": Site(install_prompt, text_resizer),
}
