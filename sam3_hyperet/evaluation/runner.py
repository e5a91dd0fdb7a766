"""Ask models about pictures, each picture once for all of them, and keep what their evaluators note of it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import nn

from sam3_hyperet.evaluation.background import Background, Line
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Record
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.inference.predictor import PromptPrediction

_COST = "cost"
_PENDING = 16  # answers that wait for their evaluators, at most


class Asked(Protocol):
    """What the runner needs of a `Predictor`."""

    model: nn.Module
    vocabulary: tuple[str, ...]
    prompts_at_once: int

    def predict(self, picture: Image.Image) -> Iterator[PromptPrediction]: ...


@dataclass(frozen=True)
class Contender:
    """A model in an evaluation.

    Attributes:
        name: what its records are kept under, and, with several models, what its metrics begin with.
        evaluators: by the name that their arrays have in a record; each is this model's alone.
        positions: the pictures that it is asked about.
    """

    name: str
    predictor: Asked
    evaluators: Mapping[str, Evaluator]
    store: RecordStore
    positions: tuple[int, ...]


def record_pictures(
    contenders: Sequence[Contender],
    share: Mapping[str, Sequence[int]],
    picture: Callable[[int], Image.Image],
    *,
    workers: int = 1,
    on_picture: Callable[[], None] = lambda: None,
) -> None:
    """Ask each contender about its share of the pictures and write the records.

    All of them see a picture before any sees the next one, for `model_sharing.shared_encoding`.

    Args:
        share: a contender's name -> the positions that this process is to record.
        picture: opens the picture at a position.
        workers: threads that do the evaluators' work while the models go on; 0 for none.
        on_picture: called after each picture, for a progress bar.
    """
    wanted = {name: set(positions) for name, positions in share.items()}
    with torch.inference_mode(), Background(workers) as background:
        lines = [background.line(one.predictor.prompts_at_once or _PENDING) for one in contenders]
        turns = [(_Turn(one, line), wanted[one.name]) for one, line in zip(contenders, lines, strict=True)]
        for position in sorted(set().union(*wanted.values())):
            opened = picture(position)
            for turn, positions in turns:
                if position in positions:
                    turn.ask(position, opened)
            on_picture()


class _Turn:
    """One contender at one picture after the other."""

    def __init__(self, contender: Contender, line: Line) -> None:
        self._contender, self._line = contender, line

    def ask(self, position: int, picture: Image.Image) -> None:
        self._line.wait()  # an evaluator, which may watch the model through hooks, has one picture at a time
        self._model_seconds = self._evaluator_seconds = 0.0
        started = time.perf_counter()
        for evaluator in self._contender.evaluators.values():
            evaluator.start(position)
        for k, answer in enumerate(self._contender.predictor.predict(picture)):
            self._model_seconds += time.perf_counter() - started
            self._line.put(self._add, k, answer)
            started = time.perf_counter()
        self._line.put(self._finish, position)

    def _add(self, k: int, answer: PromptPrediction) -> None:
        started = time.perf_counter()
        for evaluator in self._contender.evaluators.values():
            evaluator.add(k, answer)
        self._evaluator_seconds += time.perf_counter() - started

    def _finish(self, position: int) -> None:
        started = time.perf_counter()
        record: dict[str, np.ndarray] = {}
        for name, evaluator in self._contender.evaluators.items():
            record |= {f"{name}/{key}": values for key, values in evaluator.finish().items()}
        seconds = self._model_seconds + self._evaluator_seconds + time.perf_counter() - started
        record[f"{_COST}/seconds"] = np.array(seconds)
        record[f"{_COST}/peak_bytes"] = np.array(peak_memory())
        self._contender.store.write(position, record)


def records_of(records: Sequence[Record], name: str) -> list[dict[str, np.ndarray]]:
    """The part of each record that the evaluator `name` noted."""
    prefix = f"{name}/"
    return [{key.removeprefix(prefix): record[key] for key in record if key.startswith(prefix)} for record in records]


def evaluate_records(evaluators: Mapping[str, Evaluator], records: Sequence[Record], prompts: int) -> dict[str, float]:
    """All metrics of a model from the records of its pictures, and what they cost.

    Returns:
        The evaluators' metrics; `speed/images_per_s` and `speed/prompts_per_s`, of the time that the model and its
        evaluators worked, however many threads or processes shared it; `speed/peak_memory_gib`, of the process (of the
        device, where there is one) that had most.
    """
    metrics: dict[str, float] = {}
    for name, evaluator in evaluators.items():
        metrics |= evaluator.evaluate(records_of(records, name))
    seconds = float(sum(record[f"{_COST}/seconds"] for record in records))
    metrics["speed/images_per_s"] = len(records) / seconds
    metrics["speed/prompts_per_s"] = len(records) * prompts / seconds
    metrics["speed/peak_memory_gib"] = max(int(record[f"{_COST}/peak_bytes"]) for record in records) / 2**30
    return metrics


def peak_memory() -> int:
    """Most bytes that this process has held so far, on its CUDA device where it uses one."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte
