"""A micro model on the pretend accelerator."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import pytest
import torch
from micro_model import MICRO
from pretend_device import OWN_PROCESS, pretend_device
from torchvision.ops import sigmoid_focal_loss

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.build import assemble

collect_ignore = [] if os.environ.get(OWN_PROCESS) else ["test_training_on_a_device.py"]


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
