"""A folder that Hugging Face transformers' `from_pretrained` loads: weights, configuration, processor and tokenizer.

Nothing here needs transformers itself. The tokenizer's files follow from CLIP's vocabulary, which SAM 3 uses too.
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from math import isqrt
from pathlib import Path
from typing import Any

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.files import replacing
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.checkpoint import official_tensors
from sam3_hyperet.modeling.layouts.base_files import REMAINDER, TRANSFORMERS_FILE, remainder_metadata
from sam3_hyperet.modeling.layouts.transformers import has_class_token, to_transformers
from sam3_hyperet.modeling.tensor_files import write_safetensors

_DETECTOR = "detector_model."
_MERGES = 49152 - 256 - 2  # of CLIP's vocabulary, behind its bytes; two more are the start and the end of a text
_END = "<|endoftext|>"
_WITHOUT_PLACE = {  # first part found in a name: what it is of
    "trunk.pos_embed": "a class token's position",
    ".points_": "point prompts",
    "_convs.": "the tracker's necks",
    "tracker.": "the tracker",
    "": "unknown parts",
}


def save_transformers(model: host.Sam3Image, folder: str | Path, carry_over: str | Path | None = None) -> str:
    """Write a model as transformers' `Sam3Model.from_pretrained` loads it; returns what has no place there, in words.

    `carry_over` is a published base, whose tracker is written along: the folder is then also one of `Sam3VideoModel`.
    What has no place in transformers' layout lies beside it, in a file that only this package reads, so that nothing is
    lost on the way back. Raises ConfigError for a model with adapters and for a folder that is not empty, and
    CheckpointError for a `carry_over` of another architecture.
    """
    folder = Path(folder)
    check_new_folder(folder)
    official, absent = official_tensors(model, carry_over)
    buffers = {f"detector.{name}" for name, _ in model.named_buffers()}
    tensors, rest = to_transformers({k: v for k, v in official.items() if k not in buffers})
    with_tracker = any(name.startswith("tracker_model.") for name in tensors)
    if not with_tracker:
        rest |= {k: v for k, v in official.items() if ".sam2_convs." in k}
        tensors = {k.removeprefix(_DETECTOR): v for k, v in tensors.items() if k.startswith(_DETECTOR)}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    texts = {
        "config.json": _json(_configuration(model, with_tracker)),
        "processor_config.json": _json(_processor(model, with_tracker)),
        **_tokenizer(),
    }
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_safetensors({k: v.contiguous() for k, v in rest.items()}, folder / REMAINDER, remainder_metadata(absent))
    write_safetensors(tensors, folder / TRANSFORMERS_FILE, {"format": "pt"})
    return _in_words(rest)


def check_new_folder(folder: Path) -> None:
    """Raise a ConfigError unless a folder can be made, or is empty."""
    if folder.is_file():
        raise ConfigError(f"out={folder}: is a file; layout=transformers writes a folder")
    if folder.is_dir() and (there := sorted(one.name for one in folder.iterdir())):
        raise ConfigError(f"out={folder}: holds {', '.join(there[:3])}; expected a new or an empty folder")


def _configuration(model: host.Sam3Image, with_tracker: bool) -> dict[str, Any]:
    """Content of config.json; the tracker's is transformers' default, which is the published one."""
    trunk, neck = model.backbone.vision_backbone.trunk, model.backbone.vision_backbone
    text, head = model.backbone.language_backbone.encoder, model.segmentation_head
    block, layer = trunk.blocks[0], text.transformer.resblocks[0]
    patch, width = trunk.patch_embed.proj.kernel_size[0], neck.convs[0].conv_3x3.out_channels
    grid, scales = resolution(model) // patch, [float(scale) for scale in neck.scale_factors]
    pretrained = trunk.pos_embed.shape[1] - has_class_token(trunk.pos_embed)
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": trunk.pos_embed.shape[-1],
        "intermediate_size": block.mlp.fc1.out_features,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": block.attn.num_heads,
        "image_size": resolution(model),
        "pretrain_image_size": isqrt(pretrained) * patch,
        "patch_size": patch,
        "window_size": max(one.window_size for one in trunk.blocks),
        "global_attn_indexes": list(trunk.full_attn_ids),
        "layer_norm_eps": block.norm1.eps,  # 1e-5; transformers' own default is 1e-6
    }
    encoder, decoder = model.transformer.encoder.layers, model.transformer.decoder.layers
    detector = {
        "model_type": "sam3",
        "architectures": ["Sam3Model"],
        "vision_config": {
            "model_type": "sam3_vision_model",
            "backbone_config": backbone,
            "fpn_hidden_size": width,
            "scale_factors": scales,
            "backbone_feature_sizes": [[int(grid * scale)] * 2 for scale in scales[: -model.backbone.scalp]],
        },
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": text.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": layer.mlp.c_fc.out_features,
            "projection_dim": text.text_projection.shape[1],
            "num_hidden_layers": len(text.transformer.resblocks),
            "num_attention_heads": layer.attn.num_heads,
            "max_position_embeddings": text.context_length,
            "hidden_act": "gelu",
        },
        "geometry_encoder_config": _fusion(model.geometry_encoder.encode, "sam3_geometry_encoder"),
        "detr_encoder_config": _fusion(encoder, "sam3_detr_encoder"),
        "detr_decoder_config": {
            **_fusion(decoder, "sam3_detr_decoder"),
            "num_queries": model.transformer.decoder.num_queries,
        },
        "mask_decoder_config": {
            "model_type": "sam3_mask_decoder",
            "hidden_size": width,
            "num_upsampling_stages": len(head.pixel_decoder.conv_layers),
            "num_attention_heads": head.cross_attend_prompt.num_heads,
        },
    }
    if not with_tracker:
        return detector
    return {"model_type": "sam3_video", "architectures": ["Sam3VideoModel"], "detector_config": detector}


def _fusion(layers: Any, model_type: str) -> dict[str, Any]:
    """Configuration of layers of attention to images and prompts."""
    return {
        "model_type": model_type,
        "hidden_size": layers[0].linear1.in_features,
        "intermediate_size": layers[0].linear1.out_features,
        "num_layers": len(layers),
        "num_attention_heads": layers[0].self_attn.num_heads,
        "dropout": getattr(layers[0].dropout2, "p", 0.0),
    }


def _processor(model: host.Sam3Image, with_tracker: bool) -> dict[str, Any]:
    """Content of processor_config.json: what SAM 3's own processor does to images."""
    side, neck = resolution(model), model.backbone.vision_backbone
    masks = int(side // neck.trunk.patch_embed.proj.kernel_size[0] * neck.scale_factors[0])
    images = {
        **{f"do_{step}": True for step in ("convert_rgb", "normalize", "rescale", "resize")},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "rescale_factor": 1 / 255,
        "resample": 2,
        "size": {"height": side, "width": side},
    }
    mask_size = {"height": masks, "width": masks}
    image_processor = {**images, "image_processor_type": "Sam3ImageProcessor", "mask_size": mask_size}
    found = {"image_processor": image_processor, "target_size": side, "point_pad_value": -10}
    if not with_tracker:
        return {"processor_class": "Sam3Processor", **found}
    video_processor = {**images, "video_processor_type": "Sam2VideoVideoProcessor"}
    return {"processor_class": "Sam3VideoProcessor", **found, "video_processor": video_processor}


def _tokenizer() -> dict[str, str]:
    """Texts of the tokenizer's files by name, made of CLIP's vocabulary of byte pairs."""
    with gzip.open(host.vocabulary_path(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : _MERGES + 1]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    symbols = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*symbols, *(f"{one}</w>" for one in symbols), *("".join(merge.split()) for merge in merges)]
    numbered = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", _END])}
    special = {"bos_token": "<|startoftext|>", "eos_token": _END, "pad_token": _END, "unk_token": _END}
    length = {"model_max_length": host.CONTEXT_LENGTH, "max_length": host.CONTEXT_LENGTH}
    return {
        "vocab.json": json.dumps(numbered, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges]) + "\n",
        "tokenizer_config.json": _json({"tokenizer_class": "CLIPTokenizer", **length, **special}),
    }


def _in_words(rest: Iterable[str]) -> str:
    """Numbers of tensors by what they are of."""
    groups = Counter(next(owner for part, owner in _WITHOUT_PLACE.items() if part in key) for key in rest)
    return ", ".join(f"{count:,} of {owner}" for owner, count in groups.items())


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
