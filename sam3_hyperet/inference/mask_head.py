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
from sam3_hyperet.modeling.compilation import uncompiled_class
from sam3_hyperet.modeling.sites.pyramid import HyperETPixelDecoder
from sam3_hyperet.modeling.sites.site import PyramidAdjustment

_Step = Callable[[Tensor, Tensor | None], Tensor]


class MaskHead:
    """The segmentation head, one for which `shares_work` is true, on one image or on a batch of them.

    The pyramid is (I, D, H, W) features, highest resolution first; a prompt's memory takes the place of the last.
    `sharing` computes what belongs to the images first, which pays from two prompts an image.
    """

    def __init__(
        self, head: host.UniversalSegmentationHead, pyramid: Sequence[Tensor], *, sharing: bool = True
    ) -> None:
        self._head, self._last = head, len(pyramid) - 1
        self._size = pyramid[-1].shape[-2:]
        step = self._sharing_step if sharing else self._plain_step
        self._steps = [step(i, level) for i, level in enumerate(reversed(pyramid[:-1]))]

    def pixels(self, memory: Tensor, prompt: Tensor, prompt_mask: Tensor, images: Tensor | None = None) -> Tensor:
        """(B, D, H, W) pixel embeddings at the pyramid's first resolution, of (positions, B, D) image features from the
        encoder and (tokens, B, D) prompts, of which `prompt_mask`, (B, tokens), is true at the padding. `images` are
        the prompts' images, (B,) indices; None where there is but one."""
        if self._head.cross_attend_prompt is not None:
            query = self._head.cross_attn_norm(memory)
            memory = memory + self._head.cross_attend_prompt(query, prompt, prompt, key_padding_mask=prompt_mask)[0]
        pixels = memory.permute(1, 2, 0).unflatten(-1, self._size)  # type: ignore[no-untyped-call]
        pixels = self._adjusted(self._last, pixels)
        for step in self._steps:
            pixels = step(pixels, images)
        return pixels

    def instances(self, queries: Tensor, pixels: Tensor) -> Tensor:
        """(B, Q, H, W) logits of (B, Q, D) queries on (B, D, H, W) pixel embeddings."""
        convolution = self._head.instance_seg_head
        embedded = self._head.mask_predictor.mask_embed(queries)
        folded = embedded @ convolution.weight.flatten(1)
        bias = embedded @ convolution.bias[:, None]
        return torch.baddbmm(bias, folded, pixels.flatten(2)).unflatten(-1, pixels.shape[-2:])  # type: ignore[no-untyped-call, no-any-return]

    def semantic(self, pixels: Tensor) -> Tensor:
        """(B, 1, H, W) logits on (B, D, H, W) pixel embeddings."""
        logits: Tensor = self._head.semantic_seg_head(pixels)
        return logits

    def _adjusted(self, level: int, features: Tensor) -> Tensor:
        decoder = self._head.pixel_decoder
        adjustment: PyramidAdjustment | None = getattr(decoder, "adjustment", None)
        return features if adjustment is None else adjustment.adjusted(level, features)

    def _sharing_step(self, i: int, level: Tensor) -> _Step:
        convolution, norm = self._layers(i)
        of_images = convolution(self._adjusted(self._last - 1 - i, level))
        weight = enlarging_weight(convolution.weight)

        def step(pixels: Tensor, images: Tensor | None) -> Tensor:
            plus = of_images if images is None else of_images[images]
            return F.relu_(norm(enlarged_convolution(pixels, weight, plus)))

        return step

    def _plain_step(self, i: int, level: Tensor) -> _Step:
        convolution, norm = self._layers(i)
        of_images = self._adjusted(self._last - 1 - i, level)

        def step(pixels: Tensor, images: Tensor | None) -> Tensor:
            plus = of_images if images is None else of_images[images]
            return F.relu_(norm(convolution(plus + F.interpolate(pixels, scale_factor=2, mode="nearest"))))

        return step

    def _layers(self, i: int) -> tuple[nn.Conv2d, nn.GroupNorm]:
        decoder = self._head.pixel_decoder
        place = 0 if decoder.shared_conv else i
        return decoder.conv_layers[place], decoder.norms[place]


class SharingHead(host.UniversalSegmentationHead):  # type: ignore[misc]  # sam3 is untyped
    """SAM 3's segmentation head, by way of `MaskHead` for the prompts of a batch while its convolutions are frozen.

    Nothing of it is computed a second time in the backward pass, unless all of it is.
    """

    # the names and the order of the arguments are read by SAM 3's checkpointing
    def forward(
        self,
        backbone_feats: Sequence[Tensor],
        obj_queries: Tensor,
        image_ids: Tensor,
        encoder_hidden_states: Tensor,
        prompt: Tensor,
        prompt_mask: Tensor,
        **options: object,
    ) -> dict[str, Tensor | None]:
        count = len(backbone_feats[0])
        sharing = len(image_ids) >= 2 * count
        is_compiled = uncompiled_class(self.pixel_decoder) is not type(self.pixel_decoder)
        if (
            not shares_work(self, backbone_feats)
            or any(p.requires_grad for p in self.pixel_decoder.conv_layers.parameters())
            or (is_compiled and not sharing)
        ):
            output: dict[str, Tensor | None] = super().forward(
                backbone_feats, obj_queries, image_ids, encoder_hidden_states, prompt, prompt_mask, **options
            )
            return output
        head = MaskHead(self, backbone_feats, sharing=sharing)
        pixels = head.pixels(encoder_hidden_states, prompt, prompt_mask, image_ids if count > 1 else None)
        masks = head.instances(obj_queries[-1], pixels)
        return {"pred_masks": masks, "semantic_seg": head.semantic(pixels), "presence_logit": None}


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

    `weight` is of `enlarging_weight` and gets no gradient; `plus` is (B, out, 2H, 2W), or (1, out, 2H, 2W) for all.
    """
    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    result: Tensor = _EnlargedConvolution.apply(x.to(dtype), weight.to(dtype), plus.to(dtype))
    return result


class _EnlargedConvolution(torch.autograd.Function):
    """`enlarged_convolution` with a gradient that needs no tensor but the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, plus: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.is_shared = len(plus) < len(x)
        height, width = x.shape[-2:]
        windows = F.conv2d(x, weight, padding=1).unflatten(1, (2, 2, -1))  # type: ignore[no-untyped-call]
        result = torch.empty_like(plus.expand(len(x), -1, -1, -1), memory_format=_layout(x))
        places, plus = _places(result), _places(plus)
        for a, b in itertools.product((0, 1), repeat=2):
            own = windows[:, a, b, :, a : a + height, b : b + width]
            torch.add(own, plus[..., a, :, b], out=places[..., a, :, b])
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        (gradient,), (weight,) = gradients, ctx.saved_tensors
        of_x = of_plus = None
        if ctx.needs_input_grad[0]:
            height, width = gradient.shape[-2] // 2, gradient.shape[-1] // 2
            size = len(gradient), len(weight), height + 1, width + 1
            of_windows = gradient.new_zeros(size).contiguous(memory_format=_layout(gradient))
            windows, places = of_windows.unflatten(1, (2, 2, -1)), _places(gradient)  # type: ignore[no-untyped-call]
            for a, b in itertools.product((0, 1), repeat=2):
                windows[:, a, b, :, a : a + height, b : b + width] = places[..., a, :, b]
            of_x = F.conv_transpose2d(of_windows, weight, padding=1)
        if ctx.needs_input_grad[2]:
            of_plus = gradient.sum(dim=0, keepdim=True) if ctx.is_shared else gradient
        return of_x, None, of_plus


def _places(enlarged: Tensor) -> Tensor:
    """(…, 2H, 2W) as a view (…, H, 2, W, 2) of pairs of rows and of columns."""
    height, width = enlarged.shape[-2] // 2, enlarged.shape[-1] // 2
    return enlarged.unflatten(-1, (width, 2)).unflatten(-3, (height, 2))  # type: ignore[no-any-return, no-untyped-call]


def _layout(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def shares_work(head: Any, pyramid: Sequence[Tensor]) -> bool:
    """Whether the head and the pyramid are built as `MaskHead` assumes: as SAM 3 builds them."""
    if type(head) not in (host.UniversalSegmentationHead, SharingHead):
        return False
    decoder = head.pixel_decoder
    return (
        uncompiled_class(decoder) in (host.PixelDecoder, HyperETPixelDecoder)
        and not any("forward" in vars(module) for module in (head, decoder))
        and not (head.no_dec or head.aux_masks)
        and head.presence_head is None
        and decoder.interpolation_mode == "nearest"
        and all(type(c) is nn.Conv2d for c in [*decoder.conv_layers, head.instance_seg_head])
        and all(a.shape[-2:] == (2 * b.shape[-2], 2 * b.shape[-1]) for a, b in itertools.pairwise(pyramid))
    )
