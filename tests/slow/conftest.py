"""SAM 3's own image model, from its own builder with random weights, on the CPU and at the smallest resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from official import SMALLEST, CudaElsewhere, draw_weights, image_model
from torch import nn


@pytest.fixture(scope="module", autouse=True)
def plots(drawn: None) -> None:
    """Drawn in full, for a browser to show."""


@pytest.fixture(scope="session")
def build_stock() -> Callable[..., nn.Module]:
    """A function like `build_sam3_image_model`, on the CPU, at the smallest resolution.

    Without a checkpoint its weights are whatever the memory held.
    """
    import sam3.model_builder

    def build(**options: Any) -> nn.Module:
        with pytest.MonkeyPatch.context() as patch, CudaElsewhere("cpu", draw=False):
            vit = sam3.model_builder.ViT
            patch.setattr(sam3.model_builder, "ViT", lambda **sizes: vit(**{**sizes, "img_size": SMALLEST}))
            return image_model(eval_mode=True, **options)

    return build


@pytest.fixture(scope="session")
def stock_model(build_stock: Callable[..., nn.Module]) -> nn.Module:
    """The stock model with random weights, never to be changed: they are parts of one tensor."""
    model = build_stock()
    draw_weights(model, shared=True)
    return model


@pytest.fixture
def official_file(stock_model: nn.Module, tmp_path: Path) -> Iterator[Path]:
    """The stock model's weights in the layout of the official file, with something of a tracker."""
    path = tmp_path / "sam3.pt"
    detector = {f"detector.{key}": tensor for key, tensor in stock_model.state_dict().items()}
    torch.save({**detector, "tracker.no_mem_embed": torch.ones(1, 1, 256), "tracker.memory": torch.ones(3)}, path)
    yield path
    path.unlink()
