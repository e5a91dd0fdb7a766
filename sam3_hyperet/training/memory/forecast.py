"""Forecast of the peak memory of a training step, from the shapes of its tensors."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.errors import UserError
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.losses.grounding import TOTAL, Counts, GroundingLoss, count_targets
from sam3_hyperet.losses.options import LossOptions
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.config import HyperETConfig, ModelOptions
from sam3_hyperet.modeling.modes import set_training_mode
from sam3_hyperet.modeling.outline import outline
from sam3_hyperet.precision import autocast
from sam3_hyperet.training.memory.fake_backward import backward
from sam3_hyperet.training.memory.fake_device import FakeDevice, fake_device
from sam3_hyperet.training.options import StageOptions
from sam3_hyperet.training.shared_work import shared_work
from sam3_hyperet.training.stages import set_stage

OBJECTS = 5
"""Of a present concept in an image: COCO has 2.5 on average; images with many more need more memory."""
ONE_TO_MANY = 4
"""Queries that match an object in the decoder's second branch, at most."""
_SQUARES = ("img_batch", "segments", "semantic_segments")  # what has the size of the image
_SIDE = 2  # of the image whose batch has the other sizes


class ForecastError(UserError, RuntimeError):
    """A step that cannot be run on tensors without values, such as one with an operator that has no shapes."""


@dataclass(frozen=True)
class StepForecast:
    """Bytes of a step's parts.

    Attributes:
        weights: of the model.
        passes: the most during forward and backward passes, with weights, gradients, AdamW's moments and `copies`.
        update: the most while AdamW updates the weights.
    """

    weights: int
    passes: int
    update: int

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.passes, self.update)


@dataclass(frozen=True)
class StepKind:
    """What a step's memory depends on, but for its images and prompts.

    Attributes:
        precision: a resolved one; "tf32" takes what "32-true" does.
        present: prompts of an image that show something; None for all.
        objects: of each of them.
        boxes: exemplars that each of them is given, as many more tokens of the prompts in a pass.
        one_to_many: queries that match an object in the second branch.
        is_sharing: whether the prompts of an image share its work, as in `train`.
        copies: of what trains, beside its gradient and AdamW's two moments: a moving average, DDP's buckets.
        device: "cuda" or "cpu".
    """

    model: ModelOptions
    hyperet: HyperETConfig
    stage: StageOptions = field(default_factory=StageOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    precision: str = "bf16-mixed"
    present: int | None = None
    objects: int = OBJECTS
    boxes: int = 0
    one_to_many: int = ONE_TO_MANY
    is_sharing: bool = True
    copies: int = 0
    device: str = "cuda"


class Forecaster:
    """Forecasts for one kind of step, at the stage that trains most; each is made once.

    A forecast takes about five seconds of a processor for the official model. Its matching is a fixed one: each object
    has one query, and in the second branch `one_to_many` of them.
    """

    def __init__(self, kind: StepKind) -> None:
        self.kind = kind
        self._made: dict[tuple[int, int, bool, bool], StepForecast] = {}

    def step(
        self, images: int, prompts: int, *, checkpoint_activations: bool = False, is_split: bool = False
    ) -> StepForecast:
        """Forecast of a step whose largest pass has so many images, and so many prompts of each.

        `is_split` where a step has several passes, so that gradients are there when one begins. Raises ForecastError.
        """
        key = images, prompts, checkpoint_activations, is_split
        if key not in self._made:
            try:
                self._made[key] = self._measured(*key)
            except (RuntimeError, AssertionError) as error:
                found = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
                raise ForecastError(f"no forecast of the step's memory ({found})") from error
        return self._made[key]

    def interpolated(self, prompts: int, most: int, *, checkpoint_activations: bool) -> int:
        """Peak of a pass of one image and 1 to `most` of its prompts: a line through both ends."""
        options = {"checkpoint_activations": checkpoint_activations, "is_split": True}
        last = self.step(1, most, **options).peak
        if prompts == most:
            return last
        first = self.step(1, 1, **options).peak
        return round(first + (last - first) * (prompts - 1) / (most - 1))

    def _measured(self, images: int, prompts: int, checkpoint_activations: bool, is_split: bool) -> StepForecast:
        kind = self.kind
        model = outline(kind.model, kind.hyperet)
        set_stage(model, kind.stage.last, kind.stage.layers)
        side = resolution(model)
        present = min(prompts, prompts if kind.present is None else kind.present)
        batch = small_batch(images, prompts, present, kind.objects, boxes=kind.boxes)
        counts = count_targets([batch])
        with ExitStack() as stack:
            device = stack.enter_context(fake_device(kind.device))
            _move(model, device)
            weights = device.bytes
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            of_trained = sum(parameter.numel() * parameter.element_size() for parameter in trained)
            if is_split:
                for parameter in trained:
                    parameter.grad = device.tensor(parameter.shape, parameter.dtype)
                stack.enter_context(shared_encoding([model]))
            if kind.is_sharing:
                stack.enter_context(shared_work(model))
            model.matcher = FixedMatcher(1)
            loss = GroundingLoss(model, kind.loss)
            loss.wrapper.o2m_matcher = FixedMatcher(kind.one_to_many)
            set_training_mode(model, checkpoint_activations=checkpoint_activations)
            losses = [_total(model, loss, _enlarged(batch, device, side), counts, kind)]
            backward(losses)
        beside = (2 + kind.copies) * of_trained
        return StepForecast(weights, device.peak + beside, weights + of_trained + beside + of_trained)


class FixedMatcher(nn.Module):
    """A matcher that gives every target the same number of queries, in order, in place of the best ones."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self._queries = queries

    def forward(self, outputs: dict[str, Tensor], targets: dict[str, Tensor], **_: object) -> tuple[Tensor, ...]:
        total = outputs["pred_logits"].shape[1]
        rows: list[tuple[int, int, int]] = []
        for prompt, count in enumerate(int(one) for one in targets["num_boxes"]):
            first = len({row[2] for row in rows})
            rows += [(prompt, i % total, first + i // self._queries) for i in range(count * self._queries)]
        device = targets["boxes"].device
        indices = torch.tensor(rows, dtype=torch.long, device=device).reshape(-1, 3)
        return indices[:, 0], indices[:, 1], indices[:, 2]


def _total(
    model: host.Sam3Image, loss: GroundingLoss, batch: host.BatchedDatapoint, counts: Counts, kind: StepKind
) -> Tensor:
    with autocast(kind.precision, kind.device):
        total: Tensor = loss(model, batch, model(batch), counts)[TOTAL]
        return total


def small_batch(
    images: int, prompts: int, present: int, objects: int, side: int = _SIDE, boxes: int = 0
) -> host.BatchedDatapoint:
    """A batch of black images, `objects` in each of the first `present` prompts, which have `boxes` as exemplars."""
    mask = torch.ones(side, side, dtype=torch.bool)
    box = torch.tensor([0.5, 0.5, 1.0, 1.0])
    points = []
    for _ in range(images):
        found, queries = [], []
        for prompt in range(prompts):
            ids = [prompt * objects + i for i in range(objects)] if prompt < present else []
            found += [host.Object(box, 1.0, object_id=i, frame_index=0, segment=mask) for i in ids]
            queries.append(
                host.FindQueryLoaded(
                    query_text=f"object {prompt}",
                    image_id=0,
                    object_ids_output=ids,
                    is_exhaustive=True,
                    is_pixel_exhaustive=True,
                    semantic_target=mask if ids else ~mask,
                    input_bbox=box.repeat(boxes, 1) if ids and boxes else None,
                    input_bbox_label=torch.ones(boxes, dtype=torch.bool) if ids and boxes else None,
                    inference_metadata=host.InferenceMetadata(0, 0, prompt, (side, side), -1, 0),
                )
            )
        image = host.Image(data=torch.zeros(3, side, side), objects=found, size=(side, side))
        points.append(host.Datapoint(find_queries=queries, images=[image]))
    return host.collate(points)


def _enlarged(value: Any, device: FakeDevice, side: int, name: str = "") -> Any:
    """The batch on the device, with images and masks of so many pixels a side."""
    if isinstance(value, Tensor):
        if name in _SQUARES:
            return device.tensor((*value.shape[:-2], side, side), value.dtype)
        return device.tensor(value.shape, value.dtype, value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {one.name: _enlarged(getattr(value, one.name), device, side, one.name) for one in fields(value)}
        return replace(value, **parts)
    return [_enlarged(one, device, side) for one in value] if isinstance(value, list) else value


def _move(model: nn.Module, device: FakeDevice) -> None:
    """Put tensors of the device in place of the model's parameters and buffers."""
    moved: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in moved:
                    empty = device.tensor(parameter.shape, parameter.dtype)
                    moved[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = moved[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = device.tensor(buffer.shape, buffer.dtype)
