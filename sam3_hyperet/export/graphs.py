"""SAM 3's image encoder, text encoder and grounding as modules of tensors alone, and what that changes in SAM 3.

A graph of `torch.export` has no Python in it: whatever SAM 3 decides by the value of a tensor, or by a length as a
Python number, is fixed when the graph is made. Three places of SAM 3 would fix or stop what need not be, and are
replaced in a copy of the modules that shares all parameters:

- `TransformerDecoder._get_rpb_matrix` compares the size of the feature map, which it is given as a tensor;
- `SequenceGeometryEncoder._encode_boxes` lists the boxes prompt by prompt, which fixes the number of prompts;
- `SequenceGeometryEncoder._encode_points` reshapes no points at all, which ONNX Runtime refuses.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.modeling.build import resolution

PROMPTS = "prompts"
"""Name of the one axis whose size is free."""


class Port(NamedTuple):
    """An input or output of a graph: its axes, where a name is an axis of any size, and what it is."""

    name: str
    axes: tuple[int | str, ...]
    dtype: str
    meaning: str


class Graph(nn.Module):
    """A part of a model that is exported, with its inputs and outputs."""

    file: ClassVar[str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the right shapes, for two prompts where their number is free."""
        shapes = [[2 if isinstance(axis, str) else axis for axis in port.axes] for port in self.inputs]
        dtypes = [getattr(torch, port.dtype) for port in self.inputs]
        return tuple(torch.zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True))


class ImageEncoder(Graph):
    """Pixels of one image to the feature pyramid that the detector reads."""

    file = "image_encoder.onnx"

    def __init__(self, model: host.Sam3Image) -> None:
        super().__init__()
        self.backbone = model.backbone
        side = resolution(model)
        self.inputs = (
            Port("pixels", (1, 3, side, side), "float32", "RGB / 127.5 − 1, resized bilinearly to a square"),
        )
        self.outputs = _pyramid(model)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone.forward_image(pixels)["backbone_fpn"])


class TextEncoder(Graph):
    """Tokens of one phrase to its text features.

    One phrase, for SAM 3 cuts the features to the number of captions, which is the length of a Python list.
    """

    file = "text_encoder.onnx"

    def __init__(self, model: host.Sam3Image) -> None:
        super().__init__()
        self.backbone = converted(model.backbone, type(model.backbone))
        text = model.backbone.language_backbone
        self.backbone.language_backbone = converted(text, type(text))
        self.inputs = (Port("tokens", (1, host.CONTEXT_LENGTH), "int64", "ids by tokenizer.json"),)
        self.outputs = _text(model, 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        self.backbone.language_backbone.tokenizer = lambda texts, context_length: tokens
        text = self.backbone.forward_text([""], device=tokens.device)
        return text["language_features"].transpose(0, 1), text["language_mask"]


class Grounding(Graph):
    """Features of an image, text features of any number of prompts and up to `boxes` boxes of each, to detections."""

    file = "grounding.onnx"

    def __init__(self, model: host.Sam3Image, boxes: int, positions: Sequence[Tensor]) -> None:
        """Take `boxes` for each prompt; `positions` are SAM 3's encodings of the pyramid's positions."""
        super().__init__()
        self.model = _exportable(model)
        self.positions = list(positions)
        queries = model.transformer.decoder.num_queries
        rows, columns = _pyramid(model)[0].axes[-2:]
        self.inputs = (
            *_pyramid(model),
            *_text(model, PROMPTS),
            Port(
                "boxes", (PROMPTS, boxes, 4), "float32", "centre x, centre y, width, height as fractions of the image"
            ),
            Port("box_labels", (PROMPTS, boxes), "int64", "1 what is meant, 0 what is not, −1 no box; −1 come last"),
        )
        self.outputs = (
            Port("scores", (PROMPTS, queries), "float32", "of each detection, presence included"),
            Port("presence", (PROMPTS,), "float32", "probability that the prompt is in the image"),
            Port("boxes_xyxy", (PROMPTS, queries, 4), "float32", "x0, y0, x1, y1 as fractions of the image"),
            Port("masks", (PROMPTS, queries, rows, columns), "float32", "logits; above 0 is the mask"),
            Port("semantic", (PROMPTS, rows, columns), "float32", "logits of all that the prompt means"),
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        *pyramid, text, padding, boxes, labels = inputs
        count = text.shape[0]
        numbers = torch.arange(count, device=text.device)
        out = self.model.forward_grounding(
            backbone_out={
                "backbone_fpn": list(pyramid),
                "vision_pos_enc": list(self.positions),
                "language_features": text.transpose(0, 1),
                "language_mask": padding,
            },
            find_input=host.FindStage(img_ids=torch.zeros_like(numbers), text_ids=numbers, **dict.fromkeys(_UNUSED)),
            find_target=None,
            geometric_prompt=host.GeometricPrompt(
                box_embeddings=boxes.transpose(0, 1),
                box_mask=labels < 0,
                box_labels=labels.clamp(min=0).transpose(0, 1),
            ),
        )
        presence = out["presence_logit_dec"].sigmoid()
        scores = out["pred_logits"].squeeze(-1).sigmoid() * presence
        masks = out["pred_masks"], out["semantic_seg"].squeeze(1)
        return scores, presence.squeeze(-1), out["pred_boxes_xyxy"], *masks


_UNUSED = ("input_boxes", "input_boxes_mask", "input_boxes_label", "input_points", "input_points_mask")


class _OfKnownMap(host.TransformerDecoder):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's decoder for feature maps of one size, given as numbers."""

    map_size: tuple[int, int]

    def _get_rpb_matrix(self, reference_boxes: Tensor, feat_size: object) -> Tensor:
        self.compilable_cord_cache = None  # made in the graph
        matrix: Tensor = super()._get_rpb_matrix(reference_boxes, self.map_size)
        return matrix


class _OfAnyPrompts(host.SequenceGeometryEncoder):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's encoder of boxes, without points, for any number of prompts in one graph."""

    def _encode_points(self, points: Tensor, points_mask: Tensor, points_labels: Tensor, img_feats: Tensor) -> Any:
        return points.new_zeros(0, points.shape[1], self.d_model), points_mask

    def _encode_boxes(self, *args: Any, **kwargs: Any) -> Any:
        with _NoLengths():
            return super()._encode_boxes(*args, **kwargs)


class _NoLengths(TorchFunctionMode):
    """Within it, SAM 3's encoder of boxes reads no length as a Python number.

    `len`, by which it only compares two equal lengths, is 0, and boxes of (prompts, boxes, 4), which it would list
    prompt by prompt, become RoIAlign's other form: rows of the prompt's number and the box.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch.Tensor.__len__:
            return 0
        if func is torch.Tensor.unbind and args[1:] == (0,):
            boxes = args[0]
            numbers = torch.arange(boxes.shape[0], dtype=boxes.dtype, device=boxes.device)
            return torch.cat([numbers[:, None, None].expand(-1, boxes.shape[1], 1), boxes], dim=2).flatten(0, 1)
        return func(*args, **(kwargs or {}))


def _exportable(model: host.Sam3Image) -> host.Sam3Image:
    """A model of the very same parts but for those of SAM 3 that would stop or narrow an export."""
    found = converted(model, type(model))
    found.transformer = converted(model.transformer, type(model.transformer))
    found.transformer.decoder = _mixed(model.transformer.decoder, _OfKnownMap)
    found.transformer.decoder.map_size = tuple(_pyramid(model)[-1].axes[-2:])
    found.geometry_encoder = _mixed(model.geometry_encoder, _OfAnyPrompts)
    return found


def _mixed(module: nn.Module, mixin: type[nn.Module]) -> Any:
    """`module` as its own class with what `mixin` replaces."""
    return converted(module, type(mixin.__name__, (mixin, type(module)), {"__module__": __name__}))


def _pyramid(model: host.Sam3Image) -> tuple[Port, ...]:
    neck = model.backbone.vision_backbone
    grid = resolution(model) // neck.trunk.patch_embed.proj.kernel_size[0]
    sides = [int(grid * scale) for scale in neck.scale_factors[: len(neck.convs) - model.backbone.scalp]]
    meaning = "features of the image, the highest resolution first"
    return tuple(Port(f"features_{i}", (1, model.hidden_dim, s, s), "float32", meaning) for i, s in enumerate(sides))


def _text(model: host.Sam3Image, prompts: int | str) -> tuple[Port, Port]:
    axes = (prompts, host.CONTEXT_LENGTH)
    return (
        Port("text_features", (*axes, model.hidden_dim), "float32", "of each token"),
        Port("text_padding", axes, "bool", "whether a token is padding"),
    )
