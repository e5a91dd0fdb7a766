"""Key sets of the published layouts, as SAM 3's own builder and transformers have them."""

from __future__ import annotations

import pytest
import torch
from official import video_model
from published_layouts import keys_of_3_1


@pytest.fixture(scope="package")
def keys_3():
    return list(video_model().state_dict())


@pytest.fixture(scope="package")
def keys_3_1(keys_3):
    return keys_of_3_1(keys_3)


@pytest.fixture(scope="package")
def transformers_keys():
    """Keys of the published `model.safetensors`, from transformers' own model."""
    from transformers import Sam3VideoConfig, Sam3VideoModel

    with torch.device("meta"):
        return list(Sam3VideoModel(Sam3VideoConfig()).state_dict())
