"""SAM 3 in Hugging Face transformers at the tiny model's sizes, and what it answers."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.inference.grounding import Grounding
from sam3_hyperet.inference.predictor import Predictor, model_input

FUSION = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "dropout": 0.0}
TINY: dict[str, Any] = {
    "vision_config": {
        "model_type": "sam3_vision_model",
        "fpn_hidden_size": 64,
        "scale_factors": [2.0, 1.0, 0.5],
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 96,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "image_size": 128,
            "pretrain_image_size": 128,
            "patch_size": 8,
            "window_size": 8,
            "global_attn_indexes": [1, 3],
            "layer_norm_eps": 1e-5,  # SAM 3's own; transformers' default is 1e-6
        },
    },
    "text_config": {
        "model_type": "clip_text_model",
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 49408,
        "max_position_embeddings": 32,
        "projection_dim": 512,
        "hidden_act": "gelu",
    },
    "geometry_encoder_config": {**FUSION, "num_layers": 1},
    "detr_encoder_config": {**FUSION, "num_layers": 2},
    "detr_decoder_config": {**FUSION, "num_layers": 2, "num_queries": 12},
    "mask_decoder_config": {"hidden_size": 64, "num_attention_heads": 4, "num_upsampling_stages": 1},
}


def tiny_transformers_model(seed: int = 0) -> nn.Module:
    """A randomly initialised `Sam3Model`; biases and norms are random too, so that a wrong place shows."""
    from transformers import Sam3Config, Sam3Model

    return disturbed(Sam3Model(Sam3Config(**TINY)).eval(), seed)


def disturbed(model: nn.Module, seed: int, scale: float = 0.05) -> nn.Module:
    """The model with noise on every parameter, also on those that start at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def transformers_answers(model: nn.Module, image: Image.Image, side: int, text: str) -> dict[str, Tensor]:
    """Logits, boxes (corners, as fractions) and masks for a text on an image.

    SAM 3 gives every prompt its geometry encoder's token; `Sam3Model` does so only where it is given a box, such as one
    of padding (label -10), which is masked.
    """
    tokenizer = host.SimpleTokenizer(bpe_path=host.vocabulary_path())
    tokens = tokenizer([text], context_length=host.CONTEXT_LENGTH)
    output = model(
        pixel_values=model_input(image, side, torch.device("cpu"))[None],
        input_ids=tokens,
        attention_mask=(tokens > 0).long(),
        input_boxes=torch.full((1, 1, 4), 0.5),
        input_boxes_labels=torch.full((1, 1), -10),
    )
    return {
        "logits": output.pred_logits[0],
        "boxes": output.pred_boxes[0],
        "masks": output.pred_masks[0],
        "semantic": output.semantic_seg[0, 0],
        "presence": output.presence_logits[0, 0],
    }


@torch.no_grad()
def our_answers(model: host.Sam3Image, image: Image.Image, side: int, text: str) -> dict[str, Tensor]:
    """The same of a model of ours."""
    predictor = Predictor(model, [text], side)
    out, (masks,) = Grounding(model, {**predictor.encode(image), **predictor.text}).ground(range(1))
    logits = out["pred_logits"][0, :, 0]
    return {
        "logits": logits,
        "boxes": out["pred_boxes_xyxy"][0],
        "masks": masks.instances(torch.arange(len(logits))),
        "semantic": masks.semantic(),
        "presence": out["presence_logit_dec"].flatten(),
    }


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of all outputs; raises where an output says nothing, for all its values are the same."""
    assert all(tensor.numel() == 1 or tensor.std() > 1e-4 for tensor in one.values())
    return max(float((tensor - other[name]).abs().max()) for name, tensor in one.items())
