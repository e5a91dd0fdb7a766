"""Training batches, endless from any step on; validation batches; parts of a batch."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import Sampler

from sam3_hyperet import sam3_host as host
from sam3_hyperet.data.loading import ConceptPrompts, EndlessOrder, Pick, build_loader
from sam3_hyperet.data.mixture import MixedOrder, Mixture

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
_PACKED = ("boxes", "repeated_boxes", "segments", "is_valid_segment", "object_ids")  # a row for each target
_PROMPTS_SECOND = ("input_boxes", "input_boxes_label")


def training_batches(
    dataset: ConceptPrompts | Mixture,
    batch_size: int,
    *,
    step: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 0,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
) -> Iterator[host.BatchedDatapoint]:
    """Endless batches of shuffled epochs, as a training loop reads them after `step` steps.

    The batches of all processes at a step are together `batch_size` × `accumulate` × `world` images, a function of that
    product, seed and step alone; so a resumed run loses and repeats nothing, and begins without reading what it has
    seen.

    Args:
        seed: of the order; what is drawn for an image depends on the seed of `dataset`.
        accumulate: batches of a step.
        rank, world: this process of so many; each has batches of its own.
    """
    place = {"seed": seed, "rank": rank, "world": world, "first": step * accumulate * batch_size}
    order: Sampler[Pick] = EndlessOrder(len(dataset), **place)
    if isinstance(dataset, Mixture):
        order = MixedOrder(tuple(map(len, dataset.parts)), dataset.quotas, **place)
    device = torch.device(device)
    for batch in build_loader(dataset, batch_size, workers, order, pin_memory=device.type == "cuda"):
        yield move_data_to_device(batch, device)  # of pinned memory, beside the work on the GPU


def val_batches(
    dataset: ConceptPrompts, batch_size: int, device: torch.device | str = "cpu", workers: int = 0
) -> Iterator[host.BatchedDatapoint]:
    """All images once, in their order; no more loader processes than there are batches."""
    for batch in build_loader(dataset, batch_size, min(workers, math.ceil(len(dataset) / batch_size))):
        yield move_data_to_device(batch, torch.device(device))


def parts_of(batch: host.BatchedDatapoint, prompts: int) -> Iterator[host.BatchedDatapoint]:
    """Split a batch into batches of one image and at most so many of its prompts, in order."""
    stage, target, metadata = batch.find_inputs[0], batch.find_targets[0], batch.find_metadatas[0]
    images, text_ids, boxes = torch.stack([stage.img_ids, stage.text_ids, target.num_boxes]).cpu()  # waits but once
    ends = boxes.cumsum(0)
    for image in range(len(batch.img_batch)):
        for chosen in (images == image).nonzero()[:, 0].split(prompts):
            first, last = int(chosen[0]), int(chosen[-1])
            rows = slice(int(ends[first] - boxes[first]), int(ends[last]))
            texts, own = text_ids[chosen].unique(return_inverse=True)
            ids = {"img_ids": torch.zeros_like(chosen), "text_ids": own}
            ids = {name: value.to(stage.img_ids.device, non_blocking=True) for name, value in ids.items()}
            yield replace(
                batch,
                img_batch=batch.img_batch[image : image + 1],
                find_text_batch=[batch.find_text_batch[i] for i in texts.tolist()],
                find_inputs=[replace(_of(stage, chosen, rows), **ids)],
                find_targets=[_of(target, chosen, rows)],
                find_metadatas=[_of(metadata, chosen, rows)],
            )


def _of(collated: T, chosen: Tensor, rows: slice) -> T:
    """The fields of some prompts, `chosen` on the CPU, the targets of which are `rows`."""
    parts: dict[str, object] = {}
    for name in (field.name for field in fields(collated)):
        value = getattr(collated, name)
        if isinstance(value, list):
            parts[name] = [value[i] for i in chosen.tolist()]
        elif isinstance(value, Tensor):
            places = chosen.to(value.device, non_blocking=True)
            index: Any = rows if name in _PACKED else (slice(None), places) if name in _PROMPTS_SECOND else places
            parts[name] = value[index]
    return replace(collated, **parts)
