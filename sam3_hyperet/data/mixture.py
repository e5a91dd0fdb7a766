"""Several data sets as one, whose images are drawn by weight."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset, Sampler

from sam3_hyperet.data.loading import ConceptPrompts, EndlessOrder, Pick, datapoints
from sam3_hyperet.errors import DataError
from sam3_hyperet.sam3_host import Datapoint

_ROW = 1000  # images, of which each set has its quota


def quotas(weights: Sequence[float]) -> tuple[int, ...]:
    """How many of a thousand images are of each set, for how often one is taken from it; one at least."""
    rounded = [max(1, int(_ROW * weight / sum(weights))) for weight in weights]
    rounded[rounded.index(max(rounded))] += _ROW - sum(rounded)
    return tuple(rounded)


def share(quotas: Sequence[int]) -> list[float]:
    """Fraction of the images that is of each set."""
    return [quota / sum(quotas) for quota in quotas]


class Mixture(Dataset[Datapoint]):
    """Data sets behind each other; each image keeps its own set's prompts, views and annotations.

    quotas: how many images of each set are in a row of their sum.
    """

    def __init__(self, parts: Sequence[ConceptPrompts], quotas: Sequence[int]) -> None:
        self.parts, self.quotas = tuple(parts), tuple(quotas)
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int | Pick) -> Datapoint:
        epoch, index = index if isinstance(index, tuple) else (0, index)
        part = bisect.bisect_right(self._ends, index)
        return self.parts[part][epoch, index - (self._ends[part - 1] if part else 0)]

    def __getitems__(self, indices: Sequence[int | Pick]) -> list[Datapoint] | DataError:
        return datapoints(self, indices)


@dataclass(frozen=True)
class MixedOrder(Sampler[Pick]):
    """What one process sees of several sets: an endless row of rows that have each set's quota, shuffled.

    Each set's own images come in its `EndlessOrder`, so that none is seen twice before all of its set are seen once.
    """

    images: tuple[int, ...]  # of an epoch of each set
    quotas: tuple[int, ...]
    seed: int = 0
    rank: int = 0
    world: int = 1
    first: int = 0  # how many images this process has already seen

    def __iter__(self) -> Iterator[Pick]:
        row, block, parts, nth = sum(self.quotas), -1, np.empty(0, np.int64), np.empty(0, np.int64)
        firsts = [0, *itertools.accumulate(self.images)]
        orders = [EndlessOrder(images, self.seed) for images in self.images]
        for place in itertools.count(self.first * self.world + self.rank, self.world):
            now, offset = divmod(place, row)
            if now != block:
                block = now
                parts = np.repeat(np.arange(len(self.quotas)), self.quotas)
                parts = np.random.default_rng((self.seed, block, 1)).permutation(parts)
                nth = np.empty(row, np.int64)
                for part, quota in enumerate(self.quotas):
                    nth[parts == part] = block * quota + np.arange(quota)
            part = int(parts[offset])
            epoch, index = orders[part].pick(int(nth[offset]))
            yield epoch, firsts[part] + index
