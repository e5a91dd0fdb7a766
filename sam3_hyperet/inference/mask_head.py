"""SAM 3's segmentation head for many prompts on one image: what the prompts share is computed once.

The pixel decoder's step from one level of the pyramid to the next, p the pixels so far and f the level's features, is
relu(norm(conv(up(p) + f))). A convolution is linear, so this is relu(norm(conv(up(p)) + conv(f))), whose second term
belongs to the image; and the 3 × 3 convolution of a map enlarged twice by repetition is four 2 × 2 convolutions of
the map itself, one for each place in a pair of rows and of columns: 4/9 of the multiplications. The 1 × 1 convolution
before the products of queries and pixels is folded into the queries: ⟨e, Wp + b⟩ = ⟨Wᵀe, p⟩ + ⟨e, b⟩.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.modeling.sites.pyramid import HyperETPixelDecoder
from sam3_hyperet.modeling.sites.site import PyramidAdjustment


class MaskHead:
    """The segmentation head, one for which `shares_work` is true, on one image.

    The pyramid is (1, D, H, W) features, highest resolution first; a prompt's memory takes the place of the last.
    """

    def __init__(self, head: host.UniversalSegmentationHead, pyramid: Sequence[Tensor]) -> None:
        self._head, self._last = head, len(pyramid) - 1
        self._size = pyramid[-1].shape[-2:]
        self._steps = [self._step(i, level) for i, level in enumerate(reversed(pyramid[:-1]))]

    def pixels(self, memory: Tensor, prompt: Tensor, prompt_mask: Tensor) -> Tensor:
        """(B, D, H, W) pixel embeddings at the pyramid's first resolution, of (positions, B, D) image features from the
        encoder and (tokens, B, D) prompts, of which `prompt_mask`, (B, tokens), is true at the padding."""
        if self._head.cross_attend_prompt is not None:
            query = self._head.cross_attn_norm(memory)
            memory = memory + self._head.cross_attend_prompt(query, prompt, prompt, key_padding_mask=prompt_mask)[0]
        pixels = memory.permute(1, 2, 0).unflatten(-1, self._size)  # type: ignore[no-untyped-call]
        pixels = self._adjusted(self._last, pixels)
        for step in self._steps:
            pixels = step(pixels)
        return pixels

    def instances(self, queries: Tensor, pixels: Tensor) -> Tensor:
        """(Q, H, W) logits of (Q, D) queries on (D, H, W) pixel embeddings."""
        convolution = self._head.instance_seg_head
        embedded = self._head.mask_predictor.mask_embed(queries)
        folded = embedded @ convolution.weight.flatten(1)
        logits: Tensor = folded @ pixels.flatten(1) + (embedded @ convolution.bias)[:, None]
        return logits.reshape(-1, *pixels.shape[-2:])

    def semantic(self, pixels: Tensor) -> Tensor:
        """(H, W) logits on (D, H, W) pixel embeddings."""
        logits: Tensor = self._head.semantic_seg_head(pixels[None])
        return logits[0, 0]

    def _adjusted(self, level: int, features: Tensor) -> Tensor:
        decoder = self._head.pixel_decoder
        adjustment: PyramidAdjustment | None = getattr(decoder, "adjustment", None)
        if adjustment is None or not adjustment.enabled or level not in adjustment.indices:
            return features
        adjusted: Tensor = adjustment.level(level)(features)
        return adjusted

    def _step(self, i: int, level: Tensor) -> Callable[[Tensor], Tensor]:
        decoder = self._head.pixel_decoder
        place = 0 if decoder.shared_conv else i
        convolution, norm = decoder.conv_layers[place], decoder.norms[place]
        of_image = convolution(self._adjusted(self._last - 1 - i, level))
        weight = enlarging_weight(convolution.weight)
        return lambda pixels: F.relu_(norm(enlarged_convolution(pixels, weight, of_image)))


def enlarging_weight(weight: Tensor) -> Tensor:
    """(4·out, in, 2, 2) weights for `enlarged_convolution`, of a (out, in, 3, 3) weight k.

    Row 2i + a of the enlarged map, a = 0 or 1, is row i. So output row 2i + a is k₀ x[i − 1] + (k₁ + k₂) x[i] for a = 0
    and (k₀ + k₁) x[i] + k₂ x[i + 1] for a = 1; columns likewise.
    """

    def pairs(k: Tensor, dim: int) -> list[Tensor]:
        first, middle, last = k.unbind(dim)
        return [torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)]

    return torch.cat([of_column for of_row in pairs(weight, 2) for of_column in pairs(of_row, 3)])


def enlarged_convolution(x: Tensor, weight: Tensor, plus: Tensor) -> Tensor:
    """conv(up(x)) + `plus`: (B, in, H, W) to (B, out, 2H, 2W), enlarged by repetition, 3 × 3 and padded with zeros.

    `weight` is of `enlarging_weight`, `plus` (1, out, 2H, 2W).
    """
    height, width = x.shape[-2:]
    windows = F.conv2d(x, weight, padding=1).unflatten(1, (2, 2, -1))  # type: ignore[no-untyped-call]
    result = x.new_empty(len(x), plus.shape[1], height, 2, width, 2)
    plus = plus.unflatten(3, (width, 2)).unflatten(2, (height, 2))  # type: ignore[no-untyped-call]
    for a, b in itertools.product((0, 1), repeat=2):
        own = windows[:, a, b, :, a : a + height, b : b + width]
        torch.add(own, plus[..., a, :, b], out=result[..., a, :, b])
    return result.flatten(4, 5).flatten(2, 3)


def shares_work(head: Any, pyramid: Sequence[Tensor]) -> bool:
    """Whether the head and the pyramid are built as `MaskHead` assumes: as SAM 3 builds them."""
    if type(head) is not host.UniversalSegmentationHead:
        return False
    decoder = head.pixel_decoder
    return (
        type(decoder) in (host.PixelDecoder, HyperETPixelDecoder)
        and not any("forward" in vars(module) for module in (head, decoder))
        and not (head.no_dec or head.aux_masks)
        and head.presence_head is None
        and decoder.interpolation_mode == "nearest"
        and all(type(c) is nn.Conv2d for c in [*decoder.conv_layers, head.instance_seg_head])
        and all(a.shape[-2:] == (2 * b.shape[-2], 2 * b.shape[-1]) for a, b in itertools.pairwise(pyramid))
    )
