"""An endless stream of training batches that can start at any step, and the fixed tuning batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from sam3_hyperet import sam3_host as host
from sam3_hyperet.data.loading import ConceptPrompts, build_loader, move


def training_batches(
    dataset: ConceptPrompts,
    batch_size: int,
    workers: int,
    seed: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
) -> Callable[[int], Iterator[host.BatchedDatapoint]]:
    """A function from a step to the batches from that step on, epoch after epoch.

    What a step sees is a function of (seed, step, rank) alone, so a resumed run loses and repeats nothing.
    """
    loader = build_loader(
        dataset, batch_size, workers=workers, shuffle=True, seed=seed, rank=rank, world=world, drop_last=False
    )

    def start(step: int) -> Iterator[host.BatchedDatapoint]:
        first, skipped = divmod(step, len(loader))
        for epoch in itertools.count(first):
            dataset.set_epoch(epoch)
            for batch in itertools.islice(loader, skipped, None):
                yield move(batch, device)
            skipped = 0

    return start


def tuning_batches(
    dataset: ConceptPrompts, batch_size: int, device: torch.device
) -> Callable[[], Iterator[host.BatchedDatapoint]]:
    """A function to the same batches, in the same order, every time."""

    def start() -> Iterator[host.BatchedDatapoint]:
        for batch in build_loader(dataset, batch_size, shuffle=False):
            yield move(batch, device)

    return start
