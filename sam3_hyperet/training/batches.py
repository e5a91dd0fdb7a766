"""An endless stream of training batches that can start at any step, and the fixed tuning batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.data.loading import ConceptPrompts, EndlessOrder, build_loader, move


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
