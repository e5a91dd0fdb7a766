"""SAM 3 image models from SAM 3's own classes: the official architecture, and a tiny one for two CPU cores."""

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.modeling.checkpoint import load_base
from sam3_hyperet.modeling.compilation import check_compiler
from sam3_hyperet.modeling.config import PACKAGED, packaged_file
from sam3_hyperet.modeling.modes import AdaptableSam3Image


@dataclass(frozen=True)
class Architecture:
    """Every size in which two SAM 3 image models may differ; the defaults are the official model's."""

    resolution: int = 1008
    patch_size: int = 14
    pretrain_resolution: int = 336
    vit_width: int = 1024
    vit_depth: int = 32
    vit_heads: int = 16
    vit_mlp_ratio: float = 4.625
    drop_path: float = 0.1
    window_size: int = 24
    global_blocks: tuple[int, ...] = (7, 15, 23, 31)
    scale_factors: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5)
    text_width: int = 1024
    text_heads: int = 16
    text_layers: int = 24
    width: int = 256
    heads: int = 8
    feedforward: int = 2048
    dropout: float = 0.1
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 200
    geometry_layers: int = 3
    upsampling_stages: int = 3


_TINY = Architecture(
    resolution=128,
    patch_size=8,
    pretrain_resolution=128,
    vit_width=96,
    vit_depth=4,
    vit_heads=4,
    vit_mlp_ratio=4.0,
    drop_path=0.0,
    window_size=8,
    global_blocks=(1, 3),
    scale_factors=(2.0, 1.0, 0.5),
    text_width=64,
    text_heads=4,
    text_layers=2,
    width=64,
    heads=4,
    feedforward=128,
    dropout=0.0,
    encoder_layers=2,
    decoder_layers=2,
    queries=12,
    geometry_layers=1,
    upsampling_stages=1,
)
ARCHITECTURES = {
    "large": Architecture(),
    "tiny": _TINY,
    # the pyramid of "large", so that masks have half of the input's side, for parts
    "tiny_levels": replace(_TINY, scale_factors=(4.0, 2.0, 1.0, 0.5), queries=16, upsampling_stages=2),
}


def build_model(
    name: str = "tiny",
    *,
    checkpoint: str | Path | None = None,
    resolution: int | None = None,
    seed: int = 0,
    compile: bool = False,
) -> host.Sam3Image:
    """Build a SAM 3 image model on the CPU, in evaluation mode.

    Args:
        name: "tiny" (which knows the drawn scenes' objects), "tiny_levels" (some of their parts and groups as well) or
            "large" (the official architecture).
        checkpoint: a file or folder of base weights in any published layout, "facebook/sam3" or "facebook/sam3.1" for
            the gated official ones, or "random" for none; None is the package's, which only the tiny ones have.
        resolution: side of the square input in pixels; None is the architecture's own.
        seed: of the initial weights.
        compile: let `compiled_regions`, which training, evaluation and prediction enter, compile parts of the model.

    Raises ConfigError for an unknown name, "large" without a checkpoint, a resolution that the ViT's windows do not
    tile or a missing compiler, and CheckpointError for weights that do not fit.
    """
    if compile:
        check_compiler()
    if name not in ARCHITECTURES:
        raise ConfigError(f"model {name!r} is unknown; expected one of {', '.join(ARCHITECTURES)}")
    check_weights_named(name, checkpoint)
    architecture = ARCHITECTURES[name]
    if resolution is not None:
        architecture = replace(architecture, resolution=resolution)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which reseeds the accelerators too
        model = assemble(architecture)
    if checkpoint != "random":
        load_base(model, packaged_file(name) if checkpoint is None else checkpoint)
    model.compiles = compile
    return model.eval()


def check_weights_named(name: str, checkpoint: str | Path | None) -> None:
    """Raise a ConfigError where a model has no weights in the package and none are named."""
    if checkpoint is None and name in ARCHITECTURES.keys() - PACKAGED.keys():
        expected = "expected facebook/sam3 (gated), the path of a file such as sam3.pt, or random"
        raise ConfigError(
            f"checkpoint of model {name!r} is not given, and the package has no weights for it; {expected}"
        )


def resolution(model: host.Sam3Image) -> int:
    """Side in pixels of the model's square input, to which its rotary embeddings are fixed."""
    trunk = model.backbone.vision_backbone.trunk
    grid = math.isqrt(trunk.blocks[trunk.full_attn_ids[0]].attn.freqs_cis.shape[0])
    return int(grid * trunk.patch_embed.proj.kernel_size[0])


def assemble(a: Architecture) -> host.Sam3Image:
    """SAM 3's modules at the sizes of `a`, else at its own defaults, initialised from torch's global generator."""
    step = a.patch_size * a.window_size  # the ViT's windows must tile its grid of patches
    if a.resolution < step or a.resolution % step:
        below = max(a.resolution // step, 1) * step
        raise ConfigError(
            f"resolution={a.resolution} does not fit this model: expected a multiple of {step} "
            f"(patch {a.patch_size} x window {a.window_size}); near it: {below}, {below + step}"
        )
    model = AdaptableSam3Image(
        backbone=_backbone(a),
        transformer=_transformer(a),
        input_geometry_encoder=_geometry_encoder(a),
        segmentation_head=_segmentation_head(a),
        dot_prod_scoring=host.DotProductScoring(
            d_model=a.width,
            d_proj=a.width,
            prompt_mlp=host.MLP(
                *(a.width, a.feedforward, a.width, 2), dropout=a.dropout, residual=True, out_norm=nn.LayerNorm(a.width)
            ),
        ),
        use_instance_query=False,
        matcher=matcher(),
    )
    text = model.backbone.language_backbone.encoder
    for uninitialised in (text.positional_embedding, text.text_projection):
        nn.init.normal_(uninitialised, std=0.02)
    return model


def matcher() -> host.BinaryHungarianMatcherV2:
    """SAM 3's one-to-one matcher with its published costs."""
    return host.BinaryHungarianMatcherV2(focal=True, cost_class=2.0, cost_bbox=5.0, cost_giou=2.0, gamma=2)


def _position_encoding(a: Architecture) -> host.PositionEmbeddingSine:
    return host.PositionEmbeddingSine(num_pos_feats=a.width)


@functools.cache
def _tokenizer() -> host.SimpleTokenizer:
    """The tokenizer that all models share: nothing changes it, and it is slow to make."""
    return host.SimpleTokenizer(bpe_path=host.vocabulary_path())


def _backbone(a: Architecture) -> host.SAM3VLBackbone:
    trunk = host.ViT(
        img_size=a.resolution,
        pretrain_img_size=a.pretrain_resolution,
        patch_size=a.patch_size,
        embed_dim=a.vit_width,
        depth=a.vit_depth,
        num_heads=a.vit_heads,
        mlp_ratio=a.vit_mlp_ratio,
        drop_path_rate=a.drop_path,
        global_att_blocks=a.global_blocks,
        rel_pos_blocks=(),
        use_rope=True,
        use_interp_rope=True,
        window_size=a.window_size,
        retain_cls_token=False,
        ln_pre=True,
        bias_patch_embed=False,
    )
    neck = host.Sam3DualViTDetNeck(trunk, _position_encoding(a), a.width, scale_factors=list(a.scale_factors))
    text = host.VETextEncoder(a.width, _tokenizer(), width=a.text_width, heads=a.text_heads, layers=a.text_layers)
    return host.SAM3VLBackbone(visual=neck, text=text, scalp=1)


def _attention(a: Architecture, batch_first: bool) -> host.MultiheadAttention:
    return host.MultiheadAttention(a.width, a.heads, dropout=a.dropout, batch_first=batch_first)


def _fusion_layer(a: Architecture, *, batch_first: bool, position_at_attention: bool) -> host.TransformerEncoderLayer:
    return host.TransformerEncoderLayer(
        activation="relu",
        d_model=a.width,
        dim_feedforward=a.feedforward,
        dropout=a.dropout,
        pos_enc_at_attn=position_at_attention,
        pos_enc_at_cross_attn_keys=not position_at_attention,
        pos_enc_at_cross_attn_queries=False,
        pre_norm=True,
        self_attention=_attention(a, batch_first),
        cross_attention=_attention(a, batch_first),
    )


def _transformer(a: Architecture) -> host.TransformerWrapper:
    encoder = host.TransformerEncoderFusion(
        layer=_fusion_layer(a, batch_first=True, position_at_attention=True),
        num_layers=a.encoder_layers,
        d_model=a.width,
        num_feature_levels=1,
        use_act_checkpoint=True,
        add_pooled_text_to_img_feat=False,
        pool_text_with_mask=True,
    )
    decoder = host.TransformerDecoder(
        layer=host.TransformerDecoderLayer(
            activation="relu",
            d_model=a.width,
            dim_feedforward=a.feedforward,
            dropout=a.dropout,
            cross_attention=_attention(a, batch_first=False),
            n_heads=a.heads,
            use_text_cross_attention=True,
        ),
        num_layers=a.decoder_layers,
        num_queries=a.queries,
        return_intermediate=True,
        box_refine=True,
        dac=True,
        boxRPB="log",
        d_model=a.width,
        frozen=False,
        interaction_layer=None,
        use_act_checkpoint=True,
        presence_token=True,
    )  # without a resolution: given one, the decoder fills a cache on "cuda"
    return host.TransformerWrapper(encoder=encoder, decoder=decoder, d_model=a.width)


def _geometry_encoder(a: Architecture) -> host.GeometryEncoder:
    return host.GeometryEncoder(
        pos_enc=_position_encoding(a),
        encode_boxes_as_points=False,
        **{f"{kind}_{way}": True for kind in ("points", "boxes") for way in ("direct_project", "pool", "pos_enc")},
        d_model=a.width,
        num_layers=a.geometry_layers,
        layer=_fusion_layer(a, batch_first=False, position_at_attention=False),
        use_act_ckpt=True,
    )


def _segmentation_head(a: Architecture) -> host.UniversalSegmentationHead:
    return host.UniversalSegmentationHead(
        hidden_dim=a.width,
        upsampling_stages=a.upsampling_stages,
        act_ckpt=True,
        cross_attend_prompt=host.MultiheadAttention(a.width, a.heads),
        pixel_decoder=host.PixelDecoder(num_upsampling_stages=a.upsampling_stages, hidden_dim=a.width),
    )
