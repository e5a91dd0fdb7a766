"""The evaluation's metrics of a model while it trains, on some tuning images; nothing is written to disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from lightning_fabric import Fabric
from PIL.Image import Image

from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import KEPT
from sam3_hyperet.data.answers import AnsweredImages
from sam3_hyperet.data.sources import Split
from sam3_hyperet.errors import DataError
from sam3_hyperet.evaluation.kept import annotate, asking_run
from sam3_hyperet.evaluation.metric_table import forgetting
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Record
from sam3_hyperet.evaluation.models import BASE, EvalModel
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.runner import ModelRun, open_run, record_images, records_of
from sam3_hyperet.evaluation.task import EvalTask, open_task
from sam3_hyperet.modeling.copies import shared_copy
from sam3_hyperet.modeling.inject import adapters_disabled
from sam3_hyperet.training.gathering import Stopped, from_all


class ValidationScore:
    """Metrics of a model that trains; processes share the images, and all get the same metrics.

    Where the task measures what is kept, the model without its adapters is asked at once: it still is the base.

    These are the evaluators' headlines: AP and cgF1 of masks and boxes, presence, mIoU, also of each granularity and
    group; and `forgetting/<group>/…`, what is lost against the base (see `compare.forgetting`).
    stop: as for `Validation`; between two images it raises Stopped, in all processes.
    """

    def __init__(self, task: EvalTask, model: host.Sam3Image, fabric: Fabric, stop: Callable[[], bool] = bool) -> None:
        self._stop = stop
        self._task, self._fabric = task.on(next(model.parameters()).device.type), fabric
        self._model = shared_copy(model).eval()  # of the same tensors, and without the modes and caches of training
        if self._task.kept:
            with adapters_disabled(self._model):
                run = asking_run(EvalModel(BASE, self._model), self._task, _InMemory())
                annotate(self._task.kept, run, self._records(run))

    def __call__(self, base: Mapping[str, float] | None) -> dict[str, float]:
        """The metrics of the model as it is, beside those of the `base`; given None, those without adapters."""
        if base is None:
            with adapters_disabled(self._model):
                return self._metrics()
        found = self._metrics()
        return found | forgetting(base, found, ("", *self._task.groups))

    def _metrics(self) -> dict[str, float]:
        run = open_run(EvalModel("validation", self._model), self._task, _InMemory())
        run = replace(run, evaluators=self._task.evaluators(self._model), probe=None)
        return headlines(run.evaluators, self._records(run))

    def _records(self, run: ModelRun) -> list[Record]:
        """The records of a run in memory, in every process those of all."""
        own = run.positions[self._fabric.global_rank :: self._fabric.world_size]

        def opened(position: int) -> Image:
            if self._stop():
                raise Stopped
            return run.task.split.images.load_image(position)

        def record() -> dict[int, Record]:
            record_images([run], [own], opened, workers=run.task.protocol.workers)
            return run.store.records if isinstance(run.store, _InMemory) else {}

        everyone = {position: one for part in from_all(self._fabric, record) for position, one in part.items()}
        return [everyone[position] for position in run.positions]


def open_validation(split: Split, protocol: Protocol, images: int, kept: AnsweredImages | None = None) -> EvalTask:
    """The task of some images of a tuning split, evenly spread; all of them are read once. Raises DataError."""
    task = open_task(split, protocol.for_validation(images), kept)
    for position in task.positions:
        split.images.load_image(position)
    return task


def known_metrics(task: EvalTask) -> dict[str, float]:
    """The metrics of a model that finds nothing, by all names that there are; NaN where the images show nothing of it.

    No model is needed for it. Of what is kept, nothing is NaN before the base was asked.
    """
    evaluators = task.evaluators(None)
    records = []
    for position in task.positions:
        record: dict[str, np.ndarray] = {}
        for name, evaluator in evaluators.items():
            evaluator.start(position, {})
            record |= {f"{name}/{key}": values for key, values in evaluator.finish().items()}
        records.append(record)
    found = headlines(evaluators, records)
    if not found:
        raise DataError(f"{task.split.images.name}: no metric can be measured on its tuning images")
    if task.kept and not task.kept.is_annotated:
        found |= {key: 0.0 for key in found if key.startswith(f"{KEPT}/")}
    return found | forgetting(found, found, ("", *task.groups))


def headlines(evaluators: Mapping[str, Evaluator], records: Sequence[Record]) -> dict[str, float]:
    """The headlines of all evaluators, each image once."""
    once = np.ones(len(records), dtype=np.int64)
    values: dict[str, float] = {}
    for name, evaluator in evaluators.items():
        found = evaluator.headline(records_of(records, name))(once)
        values |= {str(key): float(value) for key, value in found.items()}
    return values


class _InMemory(RecordStore):
    """Records in memory."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}

    def write(self, position: int, record: Record) -> None:
        self.records[position] = record
