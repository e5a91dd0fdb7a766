"""Every published key goes from one layout to the other and back, with the same bits."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from published_layouts import KEYS_3, KEYS_3_1, same, small_official, small_transformers

from sam3_hyperet.errors import CheckpointError
from sam3_hyperet.modeling.layouts.transformers import POSITIONS, is_transformers, to_official, to_transformers

POINTS = {
    f"detector.geometry_encoder.points_{way}_project.{kind}"
    for way in ("direct", "pool", "pos_enc")
    for kind in ("weight", "bias")
}
LEVEL = {
    f"detector_model.vision_encoder.neck.fpn_layers.3.{conv}.{kind}"
    for conv in ("proj1", "proj2")
    for kind in ("weight", "bias")
}


def with_rest(converted, rest):
    """An official file again, from its tensors in transformers and those without a place there."""
    official = to_official(converted)
    row = rest.pop(POSITIONS)
    official[POSITIONS] = torch.cat([row, official[POSITIONS][:, 1:]], dim=1)
    return official | rest


def test_sam_3_has_the_keys_of_transformers(keys_3, transformers_keys):
    assert len(keys_3) == KEYS_3
    official = small_official(keys_3)
    converted, rest = to_transformers(official)
    assert converted.keys() == set(transformers_keys)
    assert rest.keys() == POINTS | {POSITIONS}
    assert same(with_rest(converted, rest), official)


def test_sam_3_1_has_the_detector_of_transformers(keys_3_1, transformers_keys):
    assert len(keys_3_1) == KEYS_3_1
    official = small_official(keys_3_1)
    assert sum(key.startswith("tracker.model.") for key in official) == 457
    converted, rest = to_transformers(official)
    assert converted.keys() | LEVEL == {key for key in transformers_keys if key.startswith("detector_model.")}
    necks = {f"detector.backbone.vision_backbone.{kind}_convs": 18 for kind in ("interactive", "propagation")}
    owners = Counter(key.rsplit(".", 3)[0] if "_convs" in key else key.split(".")[0] for key in rest)
    assert owners == {"tracker": 457, "detector": 7} | necks
    assert same(with_rest(converted, rest), official)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("outer", ["", "model.", "module."])
def test_the_keys_of_transformers_come_back(transformers_keys, alone, outer):
    """The published file, and `Sam3Model` alone, which saves no prefix; both also within another module."""
    published = small_transformers(transformers_keys)
    if alone:
        published = {key: tensor for key, tensor in published.items() if key.startswith("detector_model.")}
    prefix = "detector_model." if alone else ""
    file = {outer + key.removeprefix(prefix): tensor for key, tensor in published.items()}
    assert is_transformers(file)
    official = to_official(file)
    assert all(key.startswith(("detector.", "tracker.")) for key in official)
    assert not official[POSITIONS][:, 0].any()
    converted, rest = to_transformers(official)
    assert same(converted, published)
    assert rest.keys() == {POSITIONS}


def test_a_part_of_a_fused_projection_is_refused(transformers_keys):
    file = small_transformers(transformers_keys)
    del file["detector_model.vision_encoder.backbone.layers.7.attention.k_proj.weight"]
    with pytest.raises(CheckpointError, match=r"blocks\.7\.attn\.qkv\.weight: found q, v of q, k and v; missing k"):
        to_official(file)


@pytest.mark.parametrize("other", [torch.ones(3, 3), torch.ones(3, 2, dtype=torch.int8), torch.ones(3, 2).half()])
def test_parts_that_are_not_alike_are_refused(transformers_keys, other):
    file = small_transformers(transformers_keys)
    file["detector_model.vision_encoder.backbone.layers.7.attention.k_proj.weight"] = other
    with pytest.raises(CheckpointError, match=r"q, k and v are .*; expected three of one shape and type"):
        to_official(file)


def test_odd_shapes_are_left_to_the_model(transformers_keys):
    """Whatever a file has under a name that is split, transposed or widened: the model's shapes refuse it later."""
    names = [key for key in transformers_keys if not re.search(r"[qkv]_proj", key)]
    for tensor in (torch.ones(()), torch.ones(3), torch.ones(2, 2, 2, 2)):
        assert to_official(dict.fromkeys(names, tensor))[POSITIONS].shape == tensor.shape


def test_other_files_are_not_taken_for_transformers(keys_3, keys_3_1):
    assert not is_transformers(keys_3)
    assert not is_transformers(keys_3_1)
    assert not is_transformers(["vision_encoder.backbone.layers.0.attention.q_proj.weight"])
