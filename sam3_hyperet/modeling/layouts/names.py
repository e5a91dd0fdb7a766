"""One table of names: SAM 3's own weights ("official"), and the same in Hugging Face transformers.

transformers has the detector below `detector_model.`, the tracker below `tracker_model.` and its neck below
`tracker_neck.`. Facts are from its modelling code (5.0 to 5.24) and from what its converter does.
"""

import re
from functools import cache

_NECK = """
    dconv_2x2    scale_layers.0
    dconv_2x2_0  scale_layers.0
    dconv_2x2_1  scale_layers.2
    conv_1x1     proj1
    conv_3x3     proj2
"""
_FUSION_LAYER = """
    self_attn.in_proj          self_attn.*_proj
    self_attn.out_proj         self_attn.o_proj
    cross_attn_image.in_proj   cross_attn.*_proj
    cross_attn_image.out_proj  cross_attn.o_proj
    linear1                    mlp.fc1
    linear2                    mlp.fc2
    norm1                      layer_norm1
    norm2                      layer_norm2
    norm3                      layer_norm3
"""
_MASK_ATTENTION = """
    q_proj
    k_proj
    v_proj
    out_proj  o_proj
"""
_MLP = """
    layers.0  proj_in
    layers.1  layers.0
    layers.2  proj_out
"""
_TABLE = {  # (official, transformers): modules and parameters below them; # is a number, * is q, k or v of a fused one
    ("detector.backbone.vision_backbone.trunk", "detector_model.vision_encoder.backbone"): """
        pos_embed           embeddings.position_embeddings
        patch_embed.proj    embeddings.patch_embeddings.projection
        ln_pre              layer_norm
        blocks.#.norm1      layers.#.layer_norm1
        blocks.#.norm2      layers.#.layer_norm2
        blocks.#.attn.qkv   layers.#.attention.*_proj
        blocks.#.attn.proj  layers.#.attention.o_proj
        blocks.#.mlp.fc1    layers.#.mlp.fc1
        blocks.#.mlp.fc2    layers.#.mlp.fc2
    """,
    ("detector.backbone.vision_backbone.convs.#", "detector_model.vision_encoder.neck.fpn_layers.#"): _NECK,
    ("detector.backbone.vision_backbone.sam2_convs.#", "tracker_neck.fpn_layers.#"): _NECK,
    ("detector.backbone.language_backbone", "detector_model"): """
        encoder.token_embedding                       text_encoder.text_model.embeddings.token_embedding
        encoder.positional_embedding                  text_encoder.text_model.embeddings.position_embedding.weight
        encoder.text_projection                       text_encoder.text_projection.weight
        encoder.ln_final                              text_encoder.text_model.final_layer_norm
        encoder.transformer.resblocks.#.attn.in_proj  text_encoder.text_model.encoder.layers.#.self_attn.*_proj
        encoder.transformer.resblocks.#.attn.out_proj text_encoder.text_model.encoder.layers.#.self_attn.out_proj
        encoder.transformer.resblocks.#.ln_1          text_encoder.text_model.encoder.layers.#.layer_norm1
        encoder.transformer.resblocks.#.ln_2          text_encoder.text_model.encoder.layers.#.layer_norm2
        encoder.transformer.resblocks.#.mlp.c_fc      text_encoder.text_model.encoder.layers.#.mlp.fc1
        encoder.transformer.resblocks.#.mlp.c_proj    text_encoder.text_model.encoder.layers.#.mlp.fc2
        resizer                                       text_projection
    """,
    ("detector.geometry_encoder", "detector_model.geometry_encoder"): """
        label_embed
        cls_embed
        boxes_direct_project
        boxes_pool_project
        boxes_pos_enc_project
        final_proj
        norm                   prompt_layer_norm
        img_pre_norm           vision_layer_norm
        encode_norm            output_layer_norm
    """,
    ("detector.geometry_encoder.encode.#", "detector_model.geometry_encoder.layers.#"): _FUSION_LAYER,
    ("detector.transformer.encoder.layers.#", "detector_model.detr_encoder.layers.#"): _FUSION_LAYER,
    ("detector.transformer.decoder", "detector_model.detr_decoder"): """
        layers.#.self_attn.in_proj    layers.#.self_attn.*_proj
        layers.#.self_attn.out_proj   layers.#.self_attn.o_proj
        layers.#.ca_text.in_proj      layers.#.text_cross_attn.*_proj
        layers.#.ca_text.out_proj     layers.#.text_cross_attn.o_proj
        layers.#.cross_attn.in_proj   layers.#.vision_cross_attn.*_proj
        layers.#.cross_attn.out_proj  layers.#.vision_cross_attn.o_proj
        layers.#.linear1              layers.#.mlp.fc1
        layers.#.linear2              layers.#.mlp.fc2
        layers.#.norm1                layers.#.vision_cross_attn_layer_norm
        layers.#.catext_norm          layers.#.text_cross_attn_layer_norm
        layers.#.norm2                layers.#.self_attn_layer_norm
        layers.#.norm3                layers.#.mlp_layer_norm
        norm                          output_layer_norm
        query_embed
        reference_points
        presence_token
        presence_token_out_norm       presence_layer_norm
        presence_token_head.layers.0  presence_head.layer1
        presence_token_head.layers.1  presence_head.layer2
        presence_token_head.layers.2  presence_head.layer3
        bbox_embed.layers.0           box_head.layer1
        bbox_embed.layers.1           box_head.layer2
        bbox_embed.layers.2           box_head.layer3
        ref_point_head.layers.0       ref_point_head.layer1
        ref_point_head.layers.1       ref_point_head.layer2
        boxRPB_embed_x.layers.0       box_rpb_embed_x.layer1
        boxRPB_embed_x.layers.1       box_rpb_embed_x.layer2
        boxRPB_embed_y.layers.0       box_rpb_embed_y.layer1
        boxRPB_embed_y.layers.1       box_rpb_embed_y.layer2
    """,
    ("detector.dot_prod_scoring", "detector_model.dot_product_scoring"): """
        prompt_mlp.layers.0  text_mlp.layer1
        prompt_mlp.layers.1  text_mlp.layer2
        prompt_mlp.out_norm  text_mlp_out_norm
        prompt_proj          text_proj
        hs_proj              query_proj
    """,
    ("detector.segmentation_head", "detector_model.mask_decoder"): """
        pixel_decoder.conv_layers.#
        pixel_decoder.norms.#
        mask_predictor.mask_embed.layers.#  mask_embedder.layers.#
        instance_seg_head                   instance_projection
        semantic_seg_head                   semantic_projection
        cross_attend_prompt.in_proj         prompt_cross_attn.*_proj
        cross_attend_prompt.out_proj        prompt_cross_attn.o_proj
        cross_attn_norm                     prompt_cross_attn_norm
    """,
    ("tracker", "tracker_model"): """
        maskmem_tpos_enc      memory_temporal_positional_encoding
        no_mem_embed          no_memory_embedding
        no_mem_pos_enc        no_memory_positional_encoding
        no_obj_ptr            no_object_pointer
        no_obj_embed_spatial  occlusion_spatial_embedding_parameter
        mask_downsample
        obj_ptr_tpos_proj     temporal_positional_encoding_projection_layer
        transformer.encoder.norm  memory_attention.layer_norm
    """,
    ("tracker.obj_ptr_proj", "tracker_model.object_pointer_proj"): _MLP,
    ("tracker.transformer.encoder.layers.#", "tracker_model.memory_attention.layers.#"): """
        linear1
        linear2
        norm1    layer_norm1
        norm2    layer_norm2
        norm3    layer_norm3
    """,
    **{
        (f"tracker.{official}.{attention}", f"tracker_model.{ours}.{attention}"): _MASK_ATTENTION
        for official, ours, attentions in (
            ("transformer.encoder.layers.#", "memory_attention.layers.#", ("self_attn", "cross_attn_image")),
            (
                "sam_mask_decoder.transformer.layers.#",
                "mask_decoder.transformer.layers.#",
                ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"),
            ),
            ("sam_mask_decoder.transformer", "mask_decoder.transformer", ("final_attn_token_to_image",)),
        )
        for attention in attentions
    },
    ("tracker.maskmem_backbone", "tracker_model.memory_encoder"): """
        mask_downsampler.encoder.0   mask_downsampler.layers.0.conv
        mask_downsampler.encoder.1   mask_downsampler.layers.0.layer_norm
        mask_downsampler.encoder.3   mask_downsampler.layers.1.conv
        mask_downsampler.encoder.4   mask_downsampler.layers.1.layer_norm
        mask_downsampler.encoder.6   mask_downsampler.layers.2.conv
        mask_downsampler.encoder.7   mask_downsampler.layers.2.layer_norm
        mask_downsampler.encoder.9   mask_downsampler.layers.3.conv
        mask_downsampler.encoder.10  mask_downsampler.layers.3.layer_norm
        mask_downsampler.encoder.12  mask_downsampler.final_conv
        pix_feat_proj                feature_projection
        out_proj                     projection
        fuser.layers.#.gamma         memory_fuser.layers.#.scale
        fuser.layers.#.dwconv        memory_fuser.layers.#.depthwise_conv
        fuser.layers.#.norm          memory_fuser.layers.#.layer_norm
        fuser.layers.#.pwconv1       memory_fuser.layers.#.pointwise_conv1
        fuser.layers.#.pwconv2       memory_fuser.layers.#.pointwise_conv2
    """,
    ("tracker.sam_prompt_encoder", "tracker_model.prompt_encoder"): """
        pe_layer.positional_encoding_gaussian_matrix  shared_embedding.positional_embedding
        not_a_point_embed
        no_mask_embed
        mask_downscaling.0  mask_embed.conv1
        mask_downscaling.1  mask_embed.layer_norm1
        mask_downscaling.3  mask_embed.conv2
        mask_downscaling.4  mask_embed.layer_norm2
        mask_downscaling.6  mask_embed.conv3
    """,
    ("tracker.sam_mask_decoder", "tracker_model.mask_decoder"): """
        transformer.layers.#.norm1       transformer.layers.#.layer_norm1
        transformer.layers.#.norm2       transformer.layers.#.layer_norm2
        transformer.layers.#.norm3       transformer.layers.#.layer_norm3
        transformer.layers.#.norm4       transformer.layers.#.layer_norm4
        transformer.layers.#.mlp.lin1    transformer.layers.#.mlp.proj_in
        transformer.layers.#.mlp.lin2    transformer.layers.#.mlp.proj_out
        transformer.norm_final_attn      transformer.layer_norm_final_attn
        iou_token
        mask_tokens
        obj_score_token
        conv_s0
        conv_s1
        output_upscaling.0  upscale_conv1
        output_upscaling.1  upscale_layer_norm
        output_upscaling.3  upscale_conv2
    """,
    (
        "tracker.sam_mask_decoder.output_hypernetworks_mlps.#",
        "tracker_model.mask_decoder.output_hypernetworks_mlps.#",
    ): _MLP,
    ("tracker.sam_mask_decoder.iou_prediction_head", "tracker_model.mask_decoder.iou_prediction_head"): _MLP,
    ("tracker.sam_mask_decoder.pred_obj_score_head", "tracker_model.mask_decoder.pred_obj_score_head"): _MLP,
}


def transformers_name(official: str) -> str | None:
    """Name in transformers of an official one, with "*" for each of q, k and v; None if it has no place there."""
    found = _renamed(official.replace(".in_proj_", ".in_proj."), _rules(to_transformers=True))
    return None if found is None else found[0]


def official_name(name: str) -> tuple[str, str] | None:
    """Official name of one in transformers, and "q", "k" or "v" where it is a part; None for an unknown one.

    `dconv_2x2` also stands for `dconv_2x2_0`, from which the names alone do not tell it.
    """
    found = _renamed(name, _rules(to_transformers=False))
    return None if found is None else (found[0].replace(".in_proj.", ".in_proj_"), found[1])


def _renamed(name: str, rules: dict[str, list[tuple[re.Pattern[str], str]]]) -> tuple[str, str] | None:
    for pattern, template in rules.get(name.partition(".")[0], ()):
        if match := pattern.fullmatch(name):
            *numbers, part, suffix = match.groups()
            for number in numbers:
                template = template.replace("#", number, 1)
            return template + suffix, part
    return None


@cache
def _rules(to_transformers: bool) -> dict[str, list[tuple[re.Pattern[str], str]]]:
    """Patterns and templates of the names in one direction, by the names' first part."""
    rules: dict[str, list[tuple[re.Pattern[str], str]]] = {}
    for roots, lines in _TABLE.items():
        for line in lines.split("\n"):
            if not (words := line.split()):
                continue
            pair = [f"{root}.{word}" for root, word in zip(roots, (words[0], words[-1]), strict=True)]
            found, wanted = pair if to_transformers else reversed(pair)
            pattern = re.escape(found).replace(r"\#", r"(\d+)")
            pattern = pattern.replace(r"\*", "([qkv])") if "*" in found else pattern + "()"
            rules.setdefault(found.partition(".")[0], []).append(
                (re.compile(pattern + r"((?:\.weight|\.bias)?)"), wanted)
            )
    return rules
