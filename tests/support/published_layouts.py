"""Key sets of the published files of SAM 3 and 3.1, and files with these keys and small tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

KEYS_3 = 1465
KEYS_3_1 = 1623  # of them 457 of the tracker
_NECK = "detector.backbone.vision_backbone."
_ATTENTION = [f"{kind}_attn_{one}_proj" for kind in ("self", "cross") for one in ["q", "k", "v", "out"]]
_ATTENTION += [f"image_cross_attn_{one}_proj" for one in "qk"]
_LAYER = (*_ATTENTION, "linear1", "linear2", "norm1", "norm2", "norm3")


def keys_of_3_1(keys_of_3: Iterable[str]) -> list[str]:
    """Keys of `sam3.1_multiplex.pt`, from those of `sam3.pt`.

    From SAM 3.1's public code and from counts that others report of the file (474 vision, 295 text, 397 of the
    detector's head, 457 tracker); the file itself is gated.
    """
    keys, tracker = [], [key.removeprefix("tracker.") for key in keys_of_3 if key.startswith("tracker.")]
    for key in keys_of_3:
        if re.search(r"\.(sam2_)?convs\.3\.", key) or key.startswith("tracker."):
            continue
        necks = ("interactive_convs", "propagation_convs") if "sam2_convs" in key else ("sam2_convs",)
        keys += [key.replace("sam2_convs", neck) for neck in necks]
    names = [key for key in tracker if key.startswith("maskmem_backbone.") and ".out_proj." not in key]
    names += [f"interactive_{key}" for key in tracker if key.startswith(("sam_", "obj_ptr_proj.", "mask_downsample."))]
    names += [
        key for key in tracker if key.startswith("sam_mask_decoder.") and "output_hypernetworks_mlps.3." not in key
    ]
    names += [key for key in tracker if key.startswith(("obj_ptr_", "transformer.encoder.norm."))]
    pairs = [f"transformer.encoder.layers.{i}.{part}" for i in range(4) for part in _LAYER] + ["no_obj_ptr_linear"]
    names += [f"{module}.{kind}" for module in pairs for kind in ("weight", "bias")]
    names += ["image_pe_layer.positional_encoding_gaussian_matrix", "interactivity_no_mem_embed", "maskmem_tpos_enc"]
    names += ["no_obj_embed_spatial", "output_valid_embed", "output_invalid_embed"]
    return keys + [f"tracker.model.{name}" for name in names]


def small_official(keys: Iterable[str]) -> dict[str, Tensor]:
    """A different small tensor for every official key; positions of a 2 x 2 grid and a class token."""
    generator = torch.Generator().manual_seed(0)
    shapes = {f"{_NECK}trunk.pos_embed": (1, 5, 2)}
    return {
        key: torch.randn(shapes.get(key, (3, 2)), generator=generator)
        if ".point_embeddings." not in key
        else torch.randn(1, 2, generator=generator)
        for key in keys
        if not key.endswith("freqs_cis")
    }


def small_transformers(keys: Iterable[str]) -> dict[str, Tensor]:
    """A different small tensor for every key of transformers, but for the one that is there twice."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"position_embeddings": (1, 4, 2), "point_embed.weight": (4, 2)}
    tensors = {}
    for key in keys:
        shape = next((shape for end, shape in shapes.items() if key.endswith(end)), (3, 2))
        tensors[key] = torch.randn(shape, generator=generator)
    twice = ("tracker_model.shared_image_embedding", "tracker_model.prompt_encoder.shared_embedding")
    tensors[f"{twice[0]}.positional_embedding"] = tensors[f"{twice[1]}.positional_embedding"].clone()
    return tensors


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two files have the same keys with equal tensors."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[key]) for key, tensor in one.items())
