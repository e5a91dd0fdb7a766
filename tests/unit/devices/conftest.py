"""A micro model on the pretend accelerator."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import pytest
import torch
from pretend_device import OWN_PROCESS, pretend_device
from torchvision.ops import sigmoid_focal_loss

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.build import Architecture, assemble

collect_ignore = [] if os.environ.get(OWN_PROCESS) else ["test_training_on_a_device.py"]
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


@pytest.fixture(scope="module")
def device():
    """The device, for as long as the tests of a module run."""
    patch = pytest.MonkeyPatch()
    with pretend_device(patch) as device:
        # instead of Triton's kernels, which CUDA's tensors go to
        plain = sigmoid_focal_loss
        patch.setattr(host, "_triton_focal", lambda x, y, alpha, gamma: plain(x, y.to(x.dtype), alpha, gamma))
        patch.setattr(host, "_triton_focal_sum", lambda x, y, alpha, gamma: plain(x, y.to(x.dtype), alpha, gamma).sum())
        yield device
    patch.undo()


@pytest.fixture(scope="module")
def micro() -> Callable[[], host.Sam3Image]:
    """A function that makes a copy of a micro model, on the CPU and in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = assemble(MICRO).eval()
    tokenizer = model.backbone.language_backbone.tokenizer
    return lambda: copy.deepcopy(model, {id(tokenizer): tokenizer})
