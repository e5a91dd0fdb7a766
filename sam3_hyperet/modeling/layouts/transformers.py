"""Base weights converted between SAM 3's own layout ("official") and Hugging Face transformers', to the bit.

Beside the names, transformers splits fused query, key and value projections, stacks the tracker's point embeddings,
transposes CLIP's projection, and has neither a position embedding of a class token nor point prompts for the detector.
"""

from collections.abc import Iterable, Mapping
from math import isqrt

import torch
from torch import Tensor

from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.modeling.layouts.names import official_name, transformers_name

POSITIONS = "detector.backbone.vision_backbone.trunk.pos_embed"
"""(1, 1 + patches, width), where the first row is the class token's, which SAM 3 drops."""
_PROJECTION = "detector.backbone.language_backbone.encoder.text_projection"
_POINTS = tuple(f"tracker.sam_prompt_encoder.point_embeddings.{i}.weight" for i in range(4))
_STACKED_POINTS = "tracker_model.prompt_encoder.point_embed.weight"
_GAUSSIAN = "tracker_model.prompt_encoder.shared_embedding.positional_embedding"
_GAUSSIAN_COPY = "tracker_model.shared_image_embedding.positional_embedding"
_ROOTS = ("detector_model.", "tracker_model.", "tracker_neck.")
_TWICE = "tracker_model.tracker_model."  # what transformers 5.24 saves of its video model
_DETECTOR = "detector_model."
_MARK = "detr_decoder.query_embed.weight"


def is_transformers(names: Iterable[str]) -> bool:
    """Whether a file with these names is in transformers' layout, with or without a prefix."""
    return any(name.endswith(_MARK) for name in names)


def has_class_token(positions: Tensor) -> bool:
    """Whether position embeddings (1, N, width) of a square grid have one row more, a class token's."""
    return isqrt(positions.shape[1] - 1) ** 2 == positions.shape[1] - 1


def to_transformers(official: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors by transformers' names, and the official ones that have no place there.

    Among these are the position embedding of the class token, as (1, 1, width), and what SAM 3.1's tracker has. Most
    tensors are views of the given ones.
    """
    converted, without_place = {}, {}
    for key, tensor in official.items():
        if (name := transformers_name(key)) is None:
            without_place[key] = tensor
        elif key == POSITIONS and has_class_token(tensor):
            without_place[key], converted[name] = tensor[:, :1], tensor[:, 1:]
        elif "*" in name:
            converted |= {name.replace("*", part): third for part, third in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            converted[name] = tensor.T if key == _PROJECTION else tensor
    if without_place.keys() >= set(_POINTS):
        converted[_STACKED_POINTS] = torch.cat([without_place.pop(key) for key in _POINTS])
    if _GAUSSIAN in converted:
        converted[_GAUSSIAN_COPY] = converted[_GAUSSIAN].clone()
    return converted, without_place


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a transformers file by official names; unknown ones keep their own name.

    The position embedding of the class token is filled with zeros. Raises CheckpointError for query, key and value
    projections that are no three alike.
    """
    converted: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _with_roots(tensors).items():
        if name == _STACKED_POINTS and tensor.shape[:1] == (len(_POINTS),):
            converted |= dict(zip(_POINTS, tensor.chunk(len(_POINTS)), strict=True))
        elif name == _GAUSSIAN_COPY:
            continue
        elif (found := official_name(name)) is None:
            converted[name] = tensor
        elif found[1]:
            parts.setdefault(found[0], {})[found[1]] = tensor
        else:
            converted[found[0]] = tensor
    converted |= {key: _fused(key, thirds) for key, thirds in parts.items()}
    for key in [key for key in converted if ".dconv_2x2_1." in key]:  # the names of the two before it are the same
        first = key.replace("_2x2_1.", "_2x2.")
        if first in converted:
            converted[key.replace("_2x2_1.", "_2x2_0.")] = converted.pop(first)
    if _PROJECTION in converted and converted[_PROJECTION].ndim == 2:
        converted[_PROJECTION] = converted[_PROJECTION].T
    if POSITIONS in converted and converted[POSITIONS].ndim == 3:
        positions = converted[POSITIONS]
        converted[POSITIONS] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    return converted


def _fused(key: str, thirds: Mapping[str, Tensor]) -> Tensor:
    """One tensor of the query, key and value projections."""
    if missing := [part for part in "qkv" if part not in thirds]:
        raise CheckpointError(f"{key}: found {', '.join(thirds)} of q, k and v; missing {', '.join(missing)}")
    ordered = [thirds[part] for part in "qkv"]
    if len({(tensor.shape, tensor.dtype) for tensor in ordered}) > 1 or not ordered[0].ndim:
        found = ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}".replace("torch.", "") for tensor in ordered)
        raise CheckpointError(f"{key}: q, k and v are {found}; expected three of one shape and type")
    return torch.cat(ordered)


def _with_roots(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by names that begin with the part of the model, as in the published file."""
    before = next((name.removesuffix(_MARK) for name in tensors if name.endswith(_MARK)), "")
    outer = before.removesuffix(_DETECTOR)
    named = {}
    for name, tensor in tensors.items():
        inner = name.removeprefix(outer).replace(_TWICE, _ROOTS[1])
        named[inner if inner.startswith(_ROOTS) else _DETECTOR + inner] = tensor
    return named
