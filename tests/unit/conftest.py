"""The tiny model and hand-made batches. The model is built once a session; a test that changes it takes a copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from quick_copies import deep_copy, quick_copy

SIDE = 128


@pytest.fixture(scope="session")
def base():
    """The tiny model with random weights, never to be changed."""
    from sam3_hyperet.modeling.build import build_model

    return build_model("tiny", checkpoint="random")


@pytest.fixture
def model(base):
    """A copy of the tiny model, all of which trains, as it is built."""
    return quick_copy(base).requires_grad_()


@pytest.fixture
def another(base) -> Callable[[], object]:
    """A function that makes one more copy."""
    return lambda: quick_copy(base).requires_grad_()


@pytest.fixture(scope="session")
def copy_of() -> Callable[[object], object]:
    """A function that makes a copy of any model."""
    return deep_copy


@pytest.fixture
def randomized() -> Callable[[object], object]:
    """A function that moves every adapter parameter of a model away from where it starts."""
    from moved_adapters import moved

    return moved


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A picture that is not square."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((140, 90))


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., object]:
    """A function from pictures, each a list of (prompt, rectangles), to a batch on the model's input size."""
    from sam3_hyperet import sam3_host as host

    def rectangle(x0: int, y0: int, x1: int, y1: int) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        mask[y0:y1, x0:x1] = True
        box = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / SIDE
        return box, mask

    def datapoint(prompts: Sequence[tuple[str, Sequence[tuple[int, int, int, int]]]], seed: int):
        data = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 0.1
        objects, queries = [], []
        for text, rectangles in prompts:
            first = len(objects)
            union = torch.zeros(SIDE, SIDE, dtype=torch.bool)
            for corners in rectangles:
                box, mask = rectangle(*corners)
                union |= mask
                data[:, mask] += 1.0
                objects.append(host.Object(box, float(mask.sum()), object_id=len(objects), frame_index=0, segment=mask))
            metadata = host.InferenceMetadata(seed, seed, 1, (SIDE, SIDE), -1, 0)
            queries.append(
                host.FindQueryLoaded(
                    query_text=text,
                    image_id=0,
                    object_ids_output=list(range(first, len(objects))),
                    is_exhaustive=True,
                    is_pixel_exhaustive=True,
                    semantic_target=union,
                    inference_metadata=metadata,
                )
            )
        return host.Datapoint(find_queries=queries, images=[host.Image(data=data, objects=objects, size=(SIDE, SIDE))])

    def make(*pictures, seed: int = 0):
        return host.collate([datapoint(prompts, seed + i) for i, prompts in enumerate(pictures)])

    return make
