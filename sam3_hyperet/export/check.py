"""Outputs of exported files in ONNX Runtime, compared with those of the model in PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.export.graphs import Grounding, ImageEncoder, TextEncoder
from sam3_hyperet.inference.exemplars import Exemplars
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.rounding import relative_difference
from sam3_hyperet.modeling.build import resolution

EXEMPLARS = Exemplars(((0.5, 0.5, 0.4, 0.3), (0.25, 0.7, 0.2, 0.2)), (True, False))
"""Boxes that prompts are checked with, as far as a graph takes as many."""
_AT_ONCE = 4
"""Prompts of a run of the grounding: each takes gigabytes at the official size."""


class Trial(NamedTuple):
    """An image, prompts, the boxes of all of them, and the model's outputs by name, an array for each."""

    pixels: np.ndarray
    prompts: Sequence[str]
    exemplars: Exemplars | None
    outputs: Mapping[str, np.ndarray]


def trials(model: host.Sam3Image, images: Sequence[Tensor], prompts: Sequence[str], boxes: int) -> list[Trial]:
    """What a model answers on (3, S, S) normalised images: to prompts of words alone, and with boxes beside them."""
    with_boxes = Exemplars(EXEMPLARS.boxes[:boxes], EXEMPLARS.positive[:boxes])
    predictor = Predictor(model, prompts, resolution(model), prompts_at_once=_AT_ONCE)
    found = []
    for pixels in images:
        with torch.inference_mode():
            encoded = model.backbone.forward_image(pixels[None])
        for exemplars in (None, with_boxes):
            predictions = list(predictor.predict(encoded, exemplars=[exemplars] * len(prompts)))
            outputs = {
                "scores": [one.scores for one in predictions],
                "presence": [torch.tensor(one.presence) for one in predictions],
                "boxes_xyxy": [one.boxes for one in predictions],
                "masks": [one.mask_logits for one in predictions],
                "semantic": [one.semantic_logits for one in predictions],
            }
            arrays = {name: torch.stack(tensors).numpy() for name, tensors in outputs.items()}
            found.append(Trial(pixels[None].numpy(), prompts, exemplars, arrays))
    return found


def largest_differences(model: host.Sam3Image, folder: Path, checked: Sequence[Trial]) -> dict[str, float]:
    """Largest difference of each output of the files in a folder, relative to the output's largest value."""
    import onnxruntime

    files = (ImageEncoder.file, TextEncoder.file, Grounding.file)
    encoder, text, grounding = (onnxruntime.InferenceSession(str(folder / name)) for name in files)
    tokenizer, most = model.backbone.language_backbone.tokenizer, grounding.get_inputs()[-1].shape[1]
    differences: dict[str, float] = {}
    for trial in checked:
        ids = tokenizer(list(trial.prompts), context_length=host.CONTEXT_LENGTH).numpy()
        texts = [text.run(None, {"tokens": one[None]}) for one in ids]
        features, padding = (np.concatenate(parts) for parts in zip(*texts, strict=True))
        of_prompts = [features, padding, *boxes_and_labels([trial.exemplars] * len(ids), most)]
        pyramid = encoder.run(None, {"pixels": trial.pixels})
        names = [port.name for port in grounding.get_outputs()]
        outputs = []
        for start in range(0, len(ids), _AT_ONCE):
            inputs = [*pyramid, *(values[start : start + _AT_ONCE] for values in of_prompts)]
            named = {port.name: value for port, value in zip(grounding.get_inputs(), inputs, strict=True)}
            outputs.append(grounding.run(None, named))
        for name, parts in zip(names, zip(*outputs, strict=True), strict=True):
            difference = relative_difference(np.concatenate(parts), trial.outputs[name])
            differences[name] = float(np.maximum(difference, differences.get(name, 0.0)))  # not a number stays one
    return differences


def boxes_and_labels(exemplars: Sequence[Exemplars | None], most: int) -> tuple[np.ndarray, np.ndarray]:
    """The inputs `boxes` (prompts, most, 4) and `box_labels` (prompts, most) of a grounding graph."""
    boxes = np.zeros((len(exemplars), most, 4), np.float32)
    labels = np.full((len(exemplars), most), -1, np.int64)
    for row, one in enumerate(exemplars):
        if one is not None:
            boxes[row, : len(one.boxes)] = one.boxes
            labels[row, : len(one.boxes)] = one.positive or 1
    return boxes, labels
