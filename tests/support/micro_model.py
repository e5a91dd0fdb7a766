"""SAM 3's classes as small as tests want them."""

from __future__ import annotations

from dataclasses import replace

import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.build import Architecture, assemble

MICRO = Architecture(
    resolution=128,
    patch_size=16,
    pretrain_resolution=128,
    vit_width=16,
    vit_depth=2,
    vit_heads=2,
    vit_mlp_ratio=1.0,
    drop_path=0.1,
    window_size=4,
    global_blocks=(1,),
    scale_factors=(2.0, 1.0, 0.5),
    text_width=16,
    text_heads=2,
    text_layers=1,
    width=32,
    heads=2,
    feedforward=32,
    encoder_layers=2,
    decoder_layers=2,
    queries=6,
    geometry_layers=1,
    upsampling_stages=1,
)


def micro_base() -> host.Sam3Image:
    """A model of that size with random weights, in which nothing is dropped; the generators stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return assemble(replace(MICRO, dropout=0.0, drop_path=0.0)).eval()
