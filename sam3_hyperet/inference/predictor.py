"""Predictions for a vocabulary: each image is encoded once, the vocabulary once per run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import FP32, PRECISIONS
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.inference.exemplars import Exemplars, for_each
from sam3_hyperet.inference.first_look import FirstLook, SparedPrediction
from sam3_hyperet.inference.grounding import Grounding
from sam3_hyperet.inference.prediction import Encoded, PromptPrediction
from sam3_hyperet.modeling.parameters import adapter_sites
from sam3_hyperet.options import NonNegativeInt, PositiveInt, Probability, check_value, one_of
from sam3_hyperet.precision import autocast, resolved_precision

_MOST_PROMPTS = 32
_TEXTS_AT_ONCE = 1024
_CACHE_BYTES = 32 * 2**20


class Predictor:
    """Predictions of a SAM 3 image model, with or without adapters, for a fixed vocabulary.

    Args:
        model: in evaluation mode; nothing may write to its weights, for the text is encoded once; its dial may be set.
        resolution: side of the model's square input.
        prompts_at_once: prompts per forward pass; memory grows with it; 0 for `affordable_prompts`.
        min_score: a prompt whose detections all score less keeps no query, and no mask of it is decoded.
        precision: one of `sam3_hyperet.precision`. Whether products of fp32 tensors use TF32 is a setting of PyTorch's,
            by default on for convolutions: predict within `float32_products(precision)`, as the tools do.
        spare_below: prompts whose first look scores less keep that look's presence and no query, and get nothing of the
            full model; 0 for the full model without first looks.
        texts_at_once: of the vocabulary, through the text encoder; 1 where others have encoded some of the texts, and
            `shared_encoding` has kept them.

    Raises ConfigError: no prompt, an empty one, one that SAM 3 would cut short, or an option that cannot be.
    """

    def __init__(
        self,
        model: host.Sam3Image,
        vocabulary: Sequence[str],
        resolution: int,
        prompts_at_once: int = 0,
        min_score: float = 0.0,
        precision: str = FP32,
        spare_below: float = 0.0,
        texts_at_once: int = _TEXTS_AT_ONCE,
    ) -> None:
        check_value("prompts_at_once", prompts_at_once, NonNegativeInt)
        check_value("min_score", min_score, Probability)
        check_value("texts_at_once", texts_at_once, PositiveInt)
        one_of("precision", precision, PRECISIONS)
        check_prompts(model, vocabulary)
        self.model, self.vocabulary, self.resolution = model, tuple(vocabulary), resolution
        self.prompts_at_once, self.min_score, self.texts_at_once = prompts_at_once, min_score, texts_at_once
        self.device = next(model.parameters()).device
        self.precision = resolved_precision(precision, self.device.type)
        self._sites = tuple(adapter_sites(model).values())
        self._texts: tuple[tuple[float, ...], dict[str, Tensor]] | None = None
        self.spare(spare_below)

    @property
    def text(self) -> dict[str, Tensor]:
        """Text features of the vocabulary and their mask, as the model's backbone returns them; encoded once a dial."""
        dials = tuple(site.dial for site in self._sites)
        if self._texts is None or self._texts[0] != dials:
            self._texts = dials, self._encoded_texts()
        return self._texts[1]

    def _encoded_texts(self) -> dict[str, Tensor]:
        """Text features of the vocabulary at the present dial."""
        starts = range(0, len(self.vocabulary), self.texts_at_once)
        parts = [list(self.vocabulary[start : start + self.texts_at_once]) for start in starts]
        with self._computing():
            encoded = [self.model.backbone.forward_text(texts, device=self.device) for texts in parts]
        dims = {"language_features": 1, "language_mask": 0}  # in which the texts lie
        return {key: torch.cat([part[key] for part in encoded], dim) for key, dim in dims.items()}

    def encode(self, image: Image.Image) -> Encoded:
        """Image features, as the model's backbone returns them."""
        with self._computing():
            pixels = model_input(image, self.resolution, self.device)
            features: Encoded = self.model.backbone.forward_image(pixels[None])
        return features

    def predict(
        self,
        image: Image.Image | Encoded,
        prompts: Sequence[int] | None = None,
        exemplars: Sequence[Exemplars | None] | None = None,
    ) -> Iterator[PromptPrediction]:
        """The prediction for each prompt on an image, or on what `encode` made of it.

        prompts: those of the vocabulary to be used, by position, in any number and order; None for all.
        exemplars: the boxes that each of them is given on this image, None for no boxes. Boxes alone are the prompt
            `choices.VISUAL`, which is to be in the vocabulary.
        Raises ConfigError: exemplars for another number of prompts, or beside first looks, which see no boxes.
        """
        asked: Sequence[int] = range(len(self.vocabulary)) if prompts is None else prompts
        given = for_each(exemplars, len(asked))
        if self.spare_below and any(given):
            raise ConfigError("exemplars are boxes, which first looks do not see; expected spare_below=0")
        return self._predict(self.encode(image) if isinstance(image, Image.Image) else image, asked, given)

    def _predict(
        self, encoded: Encoded, asked: Sequence[int], exemplars: Sequence[Exemplars | None]
    ) -> Iterator[PromptPrediction]:
        if not self.spare_below:
            yield from self._ground(encoded, asked, exemplars)
            return
        scores, presence = self.first_look(encoded, asked).tolist()
        is_spared = [score < self.spare_below for score in scores]
        kept = [k for k, spared in zip(asked, is_spared, strict=True) if not spared]
        others = self._ground(encoded, kept, [None] * len(kept))
        for spared, probability in zip(is_spared, presence, strict=True):
            yield SparedPrediction(probability, self.device) if spared else next(others)

    def spare(self, below: float) -> None:
        """Let `below` be `spare_below` from now on."""
        check_value("spare_below", below, Probability)
        self.spare_below = below
        if below:
            self._first_look  # noqa: B018  # made before anything hooks into the model

    def first_look(self, encoded: Encoded, prompts: Sequence[int]) -> Tensor:
        """(2, n) scores and presences of the first look at prompts of the vocabulary, as `FirstLook.scores`."""
        with self._computing():
            return self._first_look.scores({**encoded, **self.text}, prompts)

    @cached_property
    def _first_look(self) -> FirstLook:
        return FirstLook(self.model)

    def _ground(
        self, encoded: Encoded, asked: Sequence[int], exemplars: Sequence[Exemplars | None]
    ) -> Iterator[PromptPrediction]:
        """The full model's predictions."""
        with self._computing():
            grounding = Grounding(self.model, {**encoded, **self.text})
        count = self.prompts_at_once or affordable_prompts(self.model, self.resolution, self.device)
        for start in range(0, len(asked), count):
            with self._computing():
                part = slice(start, start + count)
                out, masks = grounding.ground(asked[part], exemplars[part])
                presence, boxes = out["presence_logit_dec"].float().flatten().sigmoid(), out["pred_boxes_xyxy"].float()
                scores = out["pred_logits"].float().squeeze(-1).sigmoid()
            # the device is waited for once for all prompts of a pass
            probabilities, best = torch.stack([presence, (scores * presence[:, None]).amax(dim=1)]).tolist()
            for i in range(len(masks)):
                of_prompt = masks.pop(0)  # which may hold decoded masks
                instances, semantic = self._computing()(of_prompt.instances), self._computing()(of_prompt.semantic)
                features = {place: self._computing()(compute) for place, compute in of_prompt.features.items()}
                found = PromptPrediction(scores[i], boxes[i], instances, semantic, probabilities[i], features)
                yield found.top(0) if best[i] < self.min_score else found

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """The mode of everything that runs the model; as a decorator, of each call of a function."""
        with torch.inference_mode(), autocast(self.precision, self.device.type):
            yield


def model_input(image: Image.Image, resolution: int, device: torch.device) -> Tensor:
    """(3, resolution, resolution) pixels in [-1, 1], resized on the device as SAM 3's processor does."""
    pixels = tv.to_dtype(tv.to_image(image).to(device), torch.uint8, scale=True)
    pixels = tv.to_dtype(tv.resize(pixels, [resolution, resolution]), torch.float32, scale=True)
    normalised: Tensor = (pixels - 0.5) / 0.5  # not torchvision's `normalize`, which waits for the device
    return normalised


def affordable_prompts(model: host.Sam3Image, resolution: int, device: torch.device) -> int:
    """Prompts per forward pass, from 1 to 32: those that take a quarter of the device's memory.

    The free memory does not matter, for the last bits of a prediction depend on this number. On a CPU a batch pays only
    as long as it stays in the caches.
    """
    cuda = device.type == "cuda"
    budget = torch.cuda.get_device_properties(device).total_memory // 4 if cuda else _CACHE_BYTES
    return max(1, min(_MOST_PROMPTS, budget // bytes_per_prompt(model, resolution)))


def bytes_per_prompt(model: host.Sam3Image, resolution: int) -> int:
    """Estimated peak of what one prompt of a batch adds: a layer of the fusion encoder holds eight maps and two of its
    feed-forward network, the decoder three biases of every query towards every position."""
    patch = model.backbone.vision_backbone.trunk.patch_embed.proj.kernel_size[0]
    decoder, layer = model.transformer.decoder, model.transformer.encoder.layers[0]
    heads = decoder.layers[0].cross_attn.num_heads
    per_position = 8 * model.hidden_dim + 2 * layer.linear1.out_features + 3 * heads * decoder.num_queries
    return int(4 * (resolution // patch) ** 2 * per_position)


def check_prompts(model: host.Sam3Image, prompts: Sequence[str]) -> None:
    """Raise a ConfigError unless there are prompts and SAM 3 reads all of each: it silently cuts the longer ones."""
    if not prompts:
        raise ConfigError("there is no prompt; expected one noun phrase or more")
    most = host.CONTEXT_LENGTH - 2  # the start and the end take one each
    for prompt in prompts:
        if not prompt.strip():
            raise ConfigError(f"the prompt {prompt!r} is empty; expected a noun phrase")
        if (count := count_tokens(model, prompt)) > most:
            raise ConfigError(f"the prompt {prompt[:200]!r} has {count} tokens; SAM 3 reads {most} and drops the rest")


def count_tokens(model: host.Sam3Image, prompt: str) -> int:
    """Tokens of a prompt, without start and end."""
    return len(model.backbone.language_backbone.tokenizer.encode(prompt))
