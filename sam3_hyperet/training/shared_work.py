"""A training pass in which the prompts of an image share the work that belongs to the image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.inference.grounding import heads_first, shares_first_attention
from sam3_hyperet.inference.mask_head import SharingHead
from sam3_hyperet.training.attention_layout import sequence_first


@contextmanager
def shared_work(model: host.Sam3Image) -> Iterator[None]:
    """Context in which prompts share the mask head's convolutions of the image, and the fusion encoder's first
    self-attention, whose input is the image alone.

    Their frozen projections are one product of matrices. Loss and gradients stay the same up to rounding. What trains
    itself, or is not as SAM 3 builds it, is left alone.
    """
    head, encoder = model.segmentation_head, model.transformer.encoder
    handles = []
    if type(head) is host.UniversalSegmentationHead and "forward" not in vars(head):
        model.segmentation_head = converted(head, SharingHead)
    if shares_first_attention(encoder):
        attention, first = FirstSelfAttention(), encoder.layers[0].self_attn
        handles.append(model.register_forward_pre_hook(attention.note_images))
        handles.append(first.register_forward_pre_hook(attention.of_images, with_kwargs=True))
        handles.append(first.register_forward_hook(attention.of_prompts))
    handles += sequence_first(model)
    decoder = model.transformer.decoder
    if decoder.boxRPB != "none":
        handles += [one.register_forward_hook(_relaid) for one in (decoder.boxRPB_embed_x, decoder.boxRPB_embed_y)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        model.segmentation_head = head


def _relaid(embedding: nn.Module, inputs: object, embedded: Tensor) -> Tensor:
    return heads_first(embedded)


class FirstSelfAttention:
    """Hooks by which a self-attention, batch first, runs on a row for each image, not on one for each prompt."""

    def __init__(self) -> None:
        self._images, self._count = torch.zeros(0), 0
        self._is_shared = False

    def note_images(self, model: nn.Module, inputs: tuple[host.BatchedDatapoint]) -> None:
        """Note the image of each prompt of the batch that the model gets."""
        (batch,) = inputs
        self._images, self._count = batch.find_inputs[0].img_ids, len(batch.img_batch)

    def of_images(self, attention: nn.Module, inputs: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
        """The arguments for the first prompt of each image; None, for all, where that is not fewer or dropout draws."""
        masks = options.get("attn_mask"), options.get("key_padding_mask")
        is_batch = self._count < len(inputs[0]) == len(self._images)
        self._is_shared = is_batch and not attention.training and masks == (None, None)
        if not self._is_shared:
            return None
        rows: Any = slice(1)
        if self._count > 1:  # of an image without prompts any row will do: nothing reads its output
            images = torch.arange(self._count, device=self._images.device)
            rows = (self._images == images[:, None]).int().argmax(dim=1)
        chosen = {name: value[rows] if isinstance(value, Tensor) else value for name, value in options.items()}
        return tuple(one[rows] for one in inputs), chosen

    def of_prompts(self, attention: nn.Module, inputs: tuple[Tensor, ...], output: tuple[Tensor, Any]) -> Any:
        """The output for each prompt."""
        if not self._is_shared:
            return None
        attended, weights = output
        count = len(self._images)
        return attended.expand(count, -1, -1) if self._count == 1 else attended[self._images], weights
