"""An endless stream of training batches that can start at any step, and the fixed tuning batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.data.loading import ConceptPrompts, EndlessOrder, build_loader, move

T = TypeVar("T")
_PACKED = ("boxes", "repeated_boxes", "segments", "is_valid_segment", "object_ids")  # a row for each target
_PROMPTS_SECOND = ("input_boxes", "input_boxes_label")


def training_batches(
    dataset: ConceptPrompts,
    batch_size: int,
    workers: int,
    seed: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
) -> Callable[[int], Iterator[host.BatchedDatapoint]]:
    """A function from a step to process `rank`'s batches from that step on, `accumulate` of them a step.

    The batches of all processes at a step are together `batch_size` × `accumulate` × `world` pictures, a function of
    that product, seed and step alone; so a resumed run loses and repeats nothing, and begins without reading what it
    has seen.
    """

    def start(step: int) -> Iterator[host.BatchedDatapoint]:
        order = EndlessOrder(len(dataset), seed, rank, world, first=step * accumulate * batch_size)
        for batch in build_loader(dataset, batch_size, workers, order):
            yield move(batch, device)

    return start


def tuning_batches(
    dataset: ConceptPrompts, batch_size: int, device: torch.device
) -> Callable[[], Iterator[host.BatchedDatapoint]]:
    """A function to the same batches, in the same order, every time."""

    def start() -> Iterator[host.BatchedDatapoint]:
        for batch in build_loader(dataset, batch_size):
            yield move(batch, device)

    return start


def parts_of(batch: host.BatchedDatapoint, prompts: int) -> Iterator[host.BatchedDatapoint]:
    """Batches of one picture and at most so many of its prompts, one after the other; all that `batch` has, once."""
    stage, target, metadata = batch.find_inputs[0], batch.find_targets[0], batch.find_metadatas[0]
    ends = target.num_boxes.cumsum(0)
    for picture in range(len(batch.img_batch)):
        for chosen in (stage.img_ids == picture).nonzero()[:, 0].split(prompts):
            first, last = int(chosen[0]), int(chosen[-1])
            rows = slice(int(ends[first] - target.num_boxes[first]), int(ends[last]))
            texts, text_ids = stage.text_ids[chosen].unique(return_inverse=True)
            yield replace(
                batch,
                img_batch=batch.img_batch[picture : picture + 1],
                find_text_batch=[batch.find_text_batch[i] for i in texts.tolist()],
                find_inputs=[replace(_of(stage, chosen, rows), img_ids=torch.zeros_like(chosen), text_ids=text_ids)],
                find_targets=[_of(target, chosen, rows)],
                find_metadatas=[_of(metadata, chosen, rows)],
            )


def _of(collated: T, chosen: Tensor, rows: slice) -> T:
    """The fields of some prompts, the targets of which are `rows`."""

    def part(name: str, value: object) -> object:
        if isinstance(value, list):
            return [value[i] for i in chosen.tolist()]
        if not isinstance(value, Tensor):
            return value
        if name in _PACKED:
            return value[rows]
        return value[:, chosen] if name in _PROMPTS_SECOND else value[chosen]

    return replace(
        collated, **{field.name: part(field.name, getattr(collated, field.name)) for field in fields(collated)}
    )
