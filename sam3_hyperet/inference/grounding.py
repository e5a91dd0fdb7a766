"""Grounding of prompts on one encoded image: whatever does not depend on the prompt is computed once for all of them.

Shared are the tokens of the geometry encoder, where there are no boxes; the self-attention of the fusion
encoder's first layer, whose input is the image alone; and the parts that `mask_head` shares. Masks are decoded on
demand.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache, cached_property, lru_cache, partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sam3_hyperet import sam3_host as host
from sam3_hyperet.adapters.conversion import converted
from sam3_hyperet.adapters.gate import mean_text
from sam3_hyperet.inference.exemplars import Exemplars, geometric_prompt
from sam3_hyperet.inference.mask_head import MaskHead, shares_work
from sam3_hyperet.inference.prediction import Features
from sam3_hyperet.modeling.sites.tokens import HyperETEncoderLayer

logger = logging.getLogger(__name__)
_STOCK_METHODS = ("forward_grounding", "_encode_prompt", "_run_encoder", "_run_decoder", "_run_segmentation_heads")


class PromptMasks(NamedTuple):
    """Decoders of one prompt's masks: (n, h, w) logits of the queries at n positions, (h, w) of the semantic map.

    `features`, as far as the parts are SAM 3's own: `text`, the mean over the prompt's tokens (D, 1, 1); `encoder`, the
    fusion encoder's output; `pixels`, the segmentation head's pixel embeddings.
    """

    instances: Callable[[Tensor], Tensor]
    semantic: Callable[[], Tensor]
    features: Features = MappingProxyType({})


class Grounding:
    """A SAM 3 image model, with or without adapters, on the features of one image and of a vocabulary.

    Parts whose structure is not SAM 3's own are run as they are.
    """

    def __init__(self, model: host.Sam3Image, backbone_out: dict[str, Any]) -> None:
        self._model, self._backbone_out = model, backbone_out
        self._device = backbone_out["backbone_fpn"][-1].device
        self._stock = all(getattr(type(model), name) is getattr(host.Sam3Image, name) for name in _STOCK_METHODS)
        if self._stock:
            self._model = _sharing(model)
            mask = backbone_out["language_mask"]
            used = ~mask.all(dim=0)  # the others are padding in every prompt
            self._text, self._text_mask = backbone_out["language_features"][used], mask[:, used]
            self._geometry, self._geometry_mask, _ = model._encode_prompt(
                backbone_out, find_stage(range(1), self._device), model._get_dummy_prompt(), encode_text=False
            )
        else:
            _log_once(f"{type(model).__name__} grounds prompts in its own way: nothing is shared between them")

    def ground(
        self, prompts: Sequence[int], exemplars: Sequence[Exemplars | None] | None = None
    ) -> tuple[dict[str, Tensor], list[PromptMasks]]:
        """The model's own output for these prompts of the vocabulary, as far as it is not masks, and their masks.

        exemplars: of each prompt; None for none at all.
        """
        find_input, count = find_stage(prompts, self._device), len(prompts)
        boxes = geometric_prompt(exemplars, self._device) if exemplars and any(exemplars) else None
        if not self._stock:
            out = self._model.forward_grounding(
                backbone_out=dict(self._backbone_out),
                find_input=find_input,
                find_target=None,
                geometric_prompt=boxes or self._model._get_dummy_prompt(count),
            )
            return out, list(map(_decoded, out["pred_masks"], out["semantic_seg"][:, 0]))
        if boxes is None:
            words = len(self._text)
            prompt = torch.cat([self._text[:, find_input.text_ids], self._geometry.expand(-1, count, -1)])
            mask = torch.cat([self._text_mask[find_input.text_ids], self._geometry_mask.expand(count, -1)], dim=1)
        else:  # with all of the text's padding, by which sites tell it from several tokens of geometry
            words = len(self._backbone_out["language_features"])
            prompt, mask, _ = self._model._encode_prompt(self._backbone_out, find_input, boxes)
        _, encoded, _ = self._model._run_encoder(self._backbone_out, find_input, prompt, mask)
        memory, padding = encoded["encoder_hidden_states"], encoded["padding_mask"]
        out, queries = self._model._run_decoder(encoded["pos_embed"], memory, padding, {}, prompt, mask, encoded)
        one_by_one = (memory.chunk(count, 1), queries.chunk(count, 1), prompt.chunk(count, 1), mask.chunk(count))
        return out, [self._masks(*one, words) for one in zip(*one_by_one, strict=True)]

    def _masks(self, memory: Tensor, queries: Tensor, prompt: Tensor, prompt_mask: Tensor, words: int) -> PromptMasks:
        """The masks of one prompt, for batch size 1, of which the first `words` tokens are its text."""
        size = self._backbone_out["backbone_fpn"][-1].shape[-2:]
        features = {
            "text": lambda: mean_text(prompt[:words], prompt_mask[:, :words])[0, :, None, None],
            "encoder": lambda: memory[:, 0].T.unflatten(-1, size),  # type: ignore[no-untyped-call]
        }
        if (head := self._mask_head) is not None:
            pixels = partial(self._pixels, memory, prompt, prompt_mask)
            return PromptMasks(
                lambda positions: head.instances(queries[-1, :, positions], pixels())[0],
                lambda: head.semantic(pixels())[0, 0],
                {**features, "pixels": lambda: pixels()[0]},
            )

        @cache
        def decode() -> PromptMasks:
            out: dict[str, Tensor] = {}
            self._model._run_segmentation_heads(
                out=out,
                backbone_out=dict(self._backbone_out),
                img_ids=torch.zeros(1, dtype=torch.long, device=memory.device),
                vis_feat_sizes=None,
                encoder_hidden_states=memory,
                prompt=prompt,
                prompt_mask=prompt_mask,
                hs=queries,
            )
            return _decoded(out["pred_masks"][0], out["semantic_seg"][0, 0])

        return PromptMasks(lambda positions: decode().instances(positions), lambda: decode().semantic(), features)

    @cached_property
    def _pixels(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """The mask head's pixel embeddings of a prompt, 85 MB at 1008 pixels: those asked for last are kept."""
        assert self._mask_head is not None
        return lru_cache(maxsize=1)(self._mask_head.pixels)

    @cached_property
    def _mask_head(self) -> MaskHead | None:
        head, pyramid = self._model.segmentation_head, self._backbone_out["backbone_fpn"]
        if shares_work(head, pyramid):
            return MaskHead(head, pyramid)
        _log_once("the segmentation head is not as SAM 3 builds it: nothing of it is shared between prompts")
        return None


def _decoded(of_queries: Tensor, semantic: Tensor) -> PromptMasks:
    """Masks from (Q, h, w) and (h, w) logits."""
    return PromptMasks(lambda positions: of_queries[positions], lambda: semantic)


class SharedSelfAttention(nn.Module):
    """Self-attention, batch first and without masks, over a batch of equal sequences: computed once and kept."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self._attended: Tensor | None = None

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: object) -> tuple[Tensor, None]:
        if self._attended is None:
            self._attended = self.attention(query[:1], key[:1], value[:1], **options)[0]
        return self._attended.expand(len(query), -1, -1), None


class HeadsFirst(nn.Module):
    """A module whose output is laid out by `heads_first`."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, x: Tensor) -> Tensor:
        return heads_first(self.embedding(x))


def heads_first(embedded: Tensor) -> Tensor:
    """(B, Q, positions, heads) laid out as the decoder's bias, a sum of two of these, needs it: it is not copied."""
    return embedded.movedim(-1, 1).contiguous().movedim(1, -1)


def _sharing(model: host.Sam3Image) -> host.Sam3Image:
    """A model of the very same parts but for the fusion encoder's first self-attention and the layout of biases."""
    transformer = converted(model.transformer, type(model.transformer))
    transformer.encoder = _sharing_encoder(transformer.encoder)
    transformer.decoder = decoder = converted(transformer.decoder, type(transformer.decoder))
    if "forward" not in vars(decoder) and decoder.boxRPB != "none":
        decoder.boxRPB_embed_x = HeadsFirst(decoder.boxRPB_embed_x)
        decoder.boxRPB_embed_y = HeadsFirst(decoder.boxRPB_embed_y)
    sharing = converted(model, type(model))
    sharing.transformer = transformer
    return sharing


def shares_first_attention(encoder: Any) -> bool:
    """Whether the self-attention of the fusion encoder's first layer is of the image alone, and batch first."""
    layer = encoder.layers[0]
    return (
        type(encoder) is host.TransformerEncoderFusion
        and not encoder.add_pooled_text_to_img_feat
        and type(layer) in (host.TransformerEncoderLayer, HyperETEncoderLayer)
        and bool(getattr(layer.self_attn, "batch_first", False))
        and not any("forward" in vars(module) for module in (encoder, layer))
    )


def _sharing_encoder(encoder: Any) -> Any:
    if not shares_first_attention(encoder):
        _log_once("the fusion encoder is not as SAM 3 builds it: its self-attention is not shared between prompts")
        return encoder
    layer = encoder.layers[0]
    first, sharing = converted(layer, type(layer)), converted(encoder, type(encoder))
    first.self_attn = SharedSelfAttention(layer.self_attn)
    sharing.layers = nn.ModuleList([first, *encoder.layers[1:]])
    return sharing


@cache
def _log_once(message: str) -> None:
    logger.info(message)


def find_stage(prompts: Sequence[int], device: torch.device) -> host.FindStage:
    """SAM 3's description of prompts of the vocabulary on the one image, without boxes or points."""
    return host.FindStage(
        img_ids=torch.zeros(len(prompts), dtype=torch.long, device=device),
        text_ids=torch.tensor(list(prompts), dtype=torch.long, device=device),
        **dict.fromkeys(("input_boxes", "input_boxes_mask", "input_boxes_label", "input_points", "input_points_mask")),
    )
