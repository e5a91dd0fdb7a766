"""Models run on images, each image for all models in turn; the evaluators' records of it are kept."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from sam3_hyperet.errors import ConfigError
from sam3_hyperet.evaluation.background import Line, background
from sam3_hyperet.evaluation.metrics.evaluator import Evaluator, Prompt, Record
from sam3_hyperet.evaluation.models import EvalModel
from sam3_hyperet.evaluation.peak_memory import PeakMemory
from sam3_hyperet.evaluation.protocol import Protocol
from sam3_hyperet.evaluation.record_store import RecordStore
from sam3_hyperet.evaluation.task import EvalTask
from sam3_hyperet.inference.exemplars import Exemplars
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.tiled_prediction import EncodedImage, TiledPrediction, TiledPredictor
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import adapter_config
from sam3_hyperet.modeling.radius_sums import RadiusSums
from sam3_hyperet.modeling.sites.trunk_qv import weights_kept
from sam3_hyperet.precision import float32_products

_SECONDS, _PEAK_BYTES = "cost/seconds", "cost/peak_bytes"
_PENDING = 16  # predictions that wait for their evaluators, at most


@dataclass(frozen=True)
class ModelRun:
    """One model on some images of a task."""

    name: str
    predictor: Predictor
    task: EvalTask
    evaluators: Mapping[str, Evaluator]  # by the name that their arrays have in a record; each is this run's alone
    store: RecordStore
    positions: tuple[int, ...]
    probe: RadiusSums | None = None
    tiled: TiledPredictor | None = None  # of the predictor, where the protocol splits images

    def predict(
        self, image: Image.Image, prompts: Sequence[int], exemplars: Sequence[Exemplars | None] | None
    ) -> tuple[EncodedImage, Iterator[PromptPrediction] | Iterator[TiledPrediction]]:
        """The features of an image, and its predictions for these prompts, each made as it is taken."""
        if self.tiled is not None:
            tiles = self.tiled.encode(image)
            return tiles, self.tiled.predict(tiles, prompts, exemplars)
        features = self.predictor.encode(image)
        return features, self.predictor.predict(features, prompts, exemplars)

    def tiles_an_image(self) -> int:
        """Images that the model sees in place of each, at most."""
        if self.tiled is None:
            return 1
        images = map(self.task.split.images.image, self.positions)
        return max(len(self.tiled.grid(image.width, image.height)) for image in images)


def open_run(model: EvalModel, task: EvalTask, store: RecordStore, protocol: Protocol | None = None) -> ModelRun:
    """The run of a model on all images of a task; `protocol` in place of the task's is for the prediction alone."""
    protocol = protocol or task.protocol
    settings = protocol.prompts_at_once, protocol.min_score, protocol.precision
    predictor = Predictor(model.model, task.texts, resolution(model.model), *settings)
    probe = RadiusSums(model.model) if adapter_config(model.model) is not None else None
    tiled = None if protocol.tiling.is_whole else TiledPredictor(predictor, protocol.tiling)
    evaluators = task.evaluators(model.model, probe)
    return ModelRun(model.name, predictor, task, evaluators, store, task.positions, probe, tiled)


def record_images(
    runs: Sequence[ModelRun],
    positions: Sequence[Sequence[int]],
    image: Callable[[int], Image.Image],
    *,
    workers: int = 1,
    on_image: Callable[[], None] = lambda: None,
) -> None:
    """Run each model, all in one precision, on its images and write the records.

    All models process an image before any gets the next one, for `inference.shared_encoding`. Nothing else may write to
    their weights meanwhile.
    positions: of the images that this process is to record, for each run. image: opens the image at a position.
    workers: threads that do the evaluators' work while the models go on; 0 for none. on_image: called after each image.
    """
    wanted = [set(own) for own in positions]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(weights_kept(run.predictor.model for run in runs))
        stack.enter_context(float32_products(_precision(runs)))
        for run in runs:
            if run.probe:
                stack.enter_context(run.probe)
        line = stack.enter_context(background(workers))
        peaks = {run.predictor.device: PeakMemory(run.predictor.device) for run in runs}
        turns = [
            _Turn(run, line(run.predictor.prompts_at_once or _PENDING), peaks[run.predictor.device]) for run in runs
        ]
        for position in sorted(set().union(*wanted)):
            opened = image(position)
            for turn, own in zip(turns, wanted, strict=True):
                if position in own:
                    turn.take(position, opened)
            on_image()


def _precision(runs: Sequence[ModelRun]) -> str:
    """The one precision of all runs. Raises ConfigError for several, whose rounding would be a difference of models."""
    found = {run.name: run.predictor.precision for run in runs}
    if len(set(found.values())) > 1:
        raise ConfigError(f"models in different precisions, {found}; expected one protocol.precision for all of them")
    return next(iter(found.values()))


class _Turn:
    """One run, image by image."""

    def __init__(self, run: ModelRun, line: Line, peak: PeakMemory) -> None:
        self._run, self._line, self._peak = run, line, peak

    def take(self, position: int, image: Image.Image) -> None:
        """Predict on one image; the evaluators may finish it later."""
        self._line.wait()  # an evaluator has one image at a time
        self._model_seconds = self._evaluator_seconds = 0.0
        started = time.perf_counter()
        task = self._run.task
        asked = task.asked(position)
        encoded, predictions = self._run.predict(image, *task.given(position))
        for evaluator in self._run.evaluators.values():
            evaluator.start(position, encoded)
        for prompt, prediction in zip([task.prompts[k] for k in asked], predictions, strict=True):
            self._model_seconds += time.perf_counter() - started
            self._line.put(self._add, prompt, prediction, image.size)
            started = time.perf_counter()
        self._line.put(self._finish, position)

    def _add(self, prompt: Prompt, prediction: PromptPrediction | TiledPrediction, size: tuple[int, int]) -> None:
        started = time.perf_counter()
        protocol, (width, height) = self._run.task.protocol, size
        detections = prediction.detections(height, width, protocol.max_dets, protocol.mask_threshold)
        for evaluator in self._run.evaluators.values():
            evaluator.add(prompt, detections)
        self._evaluator_seconds += time.perf_counter() - started

    def _finish(self, position: int) -> None:
        started = time.perf_counter()
        record: dict[str, np.ndarray] = {}
        for name, evaluator in self._run.evaluators.items():
            record |= {f"{name}/{key}": values for key, values in evaluator.finish().items()}
        seconds = self._model_seconds + self._evaluator_seconds + time.perf_counter() - started
        cost = {_SECONDS: np.array(seconds), _PEAK_BYTES: np.array(self._peak.bytes())}
        self._run.store.write(position, record | cost)


def records_of(records: Sequence[Record], name: str) -> list[dict[str, np.ndarray]]:
    """The part of each record that is the evaluator `name`'s."""
    prefix = f"{name}/"
    return [{key.removeprefix(prefix): record[key] for key in record if key.startswith(prefix)} for record in records]


def evaluate_records(evaluators: Mapping[str, Evaluator], records: Sequence[Record], prompts: int) -> dict[str, float]:
    """All metrics of a model from the records of its images, and their cost; `prompts` on all images together.

    `speed/images_per_s` and `speed/prompts_per_s` are of the time that the model and its evaluators worked, however
    many threads or processes shared it; `speed/peak_memory_gib` of the process, or of its device, that had most while
    all the models that were evaluated together ran.
    """
    metrics: dict[str, float] = {}
    for name, evaluator in evaluators.items():
        metrics |= evaluator.evaluate(records_of(records, name))
    seconds = seconds_of(records)
    metrics |= {"speed/images_per_s": len(records) / seconds, "speed/prompts_per_s": prompts / seconds}
    return metrics | {"speed/peak_memory_gib": max(int(record[_PEAK_BYTES]) for record in records) / 2**30}


def seconds_of(records: Sequence[Record]) -> float:
    """Seconds that a model and its evaluators worked."""
    return float(sum(record[_SECONDS] for record in records))
