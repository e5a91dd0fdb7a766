"""Features of prompts by a frozen text encoder, computed once a run."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.inference.shared_encoding import is_stock
from sam3_hyperet.precision import tf32_settings

MOST_PROMPTS = 4096
"""Prompts whose features are kept, the latest ones: 128 MiB of the official model's in fp32, 64 MiB in bf16."""


class _Features(NamedTuple):
    tokens: Tensor  # (1, tokens)
    padding: Tensor  # (1, tokens)
    features: Tensor  # (tokens, 1, D)


class KeptText(host.VETextEncoder):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's text encoder, which encodes a prompt once as long as its parameters are frozen.

    A prompt is encoded by itself: its features do not depend on the prompts beside it, nor on those that were encoded
    before, so a run that goes on from a saved state gets the same ones, bit for bit.
    """

    kept: OrderedDict[tuple[object, ...], _Features]

    def forward(self, text: Sequence[str], input_boxes: object = None, device: Any = None) -> Any:
        if input_boxes or self.training or any(parameter.requires_grad for parameter in self.parameters()):
            self.kept.clear()
            return super().forward(text, input_boxes, device)
        kind = torch.device(device).type
        precision = (
            torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind),
            *map(itemgetter(2), tf32_settings()),
        )
        # what is loaded into a parameter counts up its version
        state = *precision, device, sum(parameter._version for parameter in self.parameters())
        found = [self._features(prompt, state, device) for prompt in text]
        while len(self.kept) > MOST_PROMPTS:
            self.kept.popitem(last=False)
        tokens, padding, features = zip(*found, strict=True)
        embedded = self.encoder.token_embedding(torch.cat(tokens)).transpose(0, 1)
        return torch.cat(padding), torch.cat(features, dim=1), embedded

    def _features(self, prompt: str, state: tuple[object, ...], device: Any) -> _Features:
        key = (prompt, *state)
        if key in self.kept:
            self.kept.move_to_end(key)
        else:
            with torch.inference_mode(False), torch.no_grad():  # a later training step reads them as well
                tokens = self.tokenizer([prompt], context_length=self.context_length).to(device)
                self.kept[key] = _Features(tokens, *super().forward([prompt], None, device)[:2])
        return self.kept[key]


@contextmanager
def text_features_once(model: host.Sam3Image) -> Iterator[None]:
    """Context in which the model encodes each prompt once, as long as its text encoder is frozen.

    The site `prompt` adjusts what is kept; a text encoder with adapters in it, as LoRA puts there, is left alone.
    """
    backbone = model.backbone
    encoder = backbone.language_backbone
    if type(encoder) is not host.VETextEncoder or not is_stock(encoder):
        yield
        return
    backbone.language_backbone = keeping = converted(encoder, KeptText)
    keeping.kept = OrderedDict()
    try:
        yield
    finally:
        backbone.language_backbone = encoder
