"""A base and adapted models that several people ask in turn; what does not depend on the dial is computed once."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
import torch
from PIL import Image

from sam3_hyperet import sam3_host as host
from sam3_hyperet.choices import AUTO
from sam3_hyperet.demo.prompts import Ask
from sam3_hyperet.errors import ConfigError
from sam3_hyperet.hyperbolic.radius import radius
from sam3_hyperet.inference.prediction import Encoded
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.masks import Rle, iou
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.compilation import compiled_regions
from sam3_hyperet.modeling.config import CONTROLS_OF_BASE, adapter_config
from sam3_hyperet.modeling.dial import set_dial
from sam3_hyperet.modeling.sites.trunk_qv import weights_kept
from sam3_hyperet.overlays.colors import Pixels
from sam3_hyperet.precision import float32_products, resolved_precision
from sam3_hyperet.wording import count_of

BASE = "base"
LEAST_SCORE = 0.1
"""Detections below it are dropped, so that the threshold of the page can move without the model."""
SIDE = 720
"""Pixels of the longer side of a picture as it is shown, and of its masks."""
SAME = 0.5
_PHRASES = 512  # whose text features are kept


class Picture:
    """An RGB image with its name, known by its pixels."""

    def __init__(self, name: str, image: Image.Image) -> None:
        self.name, self.image = name, image
        self.key = sha256(repr(image.size).encode() + image.tobytes()).hexdigest()

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height at which it is shown."""
        width, height = self.image.size
        scale = SIDE / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    @cached_property
    def shown(self) -> Pixels:
        """(height, width, 3) as it is shown, resized once for all answers."""
        return np.asarray(self.image.resize(self.shown_size, Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class Found:
    """What a model finds for a prompt.

    scores: from `LEAST_SCORE`, best first, presence included. boxes: (n, 4) x0, y0, x1, y1 in pixels. masks: at the
    size that was asked for. radii: (h, w) of the fusion encoder's output, d(0, exp_0(v)) = 2‖v‖; None where the model's
    parts are not SAM 3's own.
    """

    presence: float
    scores: tuple[float, ...]
    boxes: np.ndarray
    masks: tuple[Rle, ...]
    radii: np.ndarray | None


@contextmanager
def _within_memory(prompts: int) -> Iterator[None]:
    """Context in which an accelerator that runs out of memory is an error of the user, a ConfigError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"the device has too little memory for {count_of(prompts, 'prompt')} at once; expected the demo started "
            "with prompts_at_once=1, or with pictures=1"
        ) from error


def distinct(found: Found, threshold: float) -> list[int]:
    """Positions of the detections of at least a score, without those that cover what a better one of them does.

    SAM 3 finds an object by several queries; two masks are of one object from an IoU of `SAME`.
    """
    count = sum(score >= threshold for score in found.scores)
    overlaps, kept = iou(found.masks[:count], found.masks[:count]), list[int]()
    for k in range(count):
        if not (overlaps[k, kept] >= SAME).any():
            kept.append(k)
    return kept


class Models:
    """A context in which models answer, one question at a time, whoever asks.

    Args:
        base, adapted: in evaluation mode on one device, the adapted ones by name; nothing else may write to their
            weights or set their dials.
        precision, prompts_at_once: as for `Predictor`.
        pictures: so many of the last pictures' features are kept.
    """

    def __init__(
        self,
        base: host.Sam3Image,
        adapted: Mapping[str, host.Sam3Image],
        *,
        precision: str = AUTO,
        prompts_at_once: int = 0,
        pictures: int = 4,
    ) -> None:
        self.adapters = tuple(adapted)
        self._models = {BASE: base, **adapted}
        self._resolution, self._prompts_at_once = resolution(base), prompts_at_once
        self.precision = resolved_precision(precision, next(base.parameters()).device.type)
        self._pictures = pictures
        self._encoded = OrderedDict[tuple[str, str], tuple[float, Encoded]]()
        self._one_at_a_time, self._stack = threading.Lock(), ExitStack()

    def __enter__(self) -> "Models":
        models = list(self._models.values())
        self._stack.enter_context(weights_kept(models))
        self._stack.enter_context(compiled_regions(models))
        self._stack.enter_context(float32_products(self.precision))
        # a control that tunes the base has another encoder at each dial: nothing of it would be asked for again
        sharing = [model for model in models if not _tunes_base(model)]
        self._stack.enter_context(shared_encoding(sharing, self._pictures, texts=_PHRASES))
        return self

    def __exit__(self, *error: object) -> None:
        self._encoded.clear()
        self._stack.close()

    def find(
        self, name: str, dial: float, picture: Picture, asked: Sequence[Ask], size: tuple[int, int]
    ) -> list[Found]:
        """What `BASE`, or an adapted model at a dial, finds on a picture; masks at a (width, height).

        Raises ConfigError for a phrase that SAM 3 cannot read whole, and for what is no dial.
        """
        vocabulary = list(dict.fromkeys(ask.text for ask in asked))
        with self._one_at_a_time, _within_memory(len(asked)):
            model = self._models[name]
            predictor = Predictor(
                model,
                vocabulary,
                self._resolution,
                prompts_at_once=self._prompts_at_once,
                texts_at_once=1,  # one phrase more leaves the text features of the others as they are
                precision=self.precision,
            )
            if name != BASE:
                set_dial(model, dial)
            encoded = self._encode(predictor, name, dial, picture)
            prompts = [vocabulary.index(ask.text) for ask in asked]
            found = []
            for prediction in predictor.predict(encoded, prompts, [ask.exemplars for ask in asked]):
                best = prediction.detections(size[1], size[0], None, score_threshold=LEAST_SCORE)
                masks, scores = tuple(best.rles(len(best.scores))), tuple(best.scores.tolist())
                compute = prediction.features.get("encoder")
                radii = None if compute is None else radius(compute().float(), dim=0).cpu().numpy()
                found.append(Found(prediction.presence, scores, best.boxes, masks, radii))
            return found

    def _encode(self, predictor: Predictor, name: str, dial: float, picture: Picture) -> Encoded:
        """Features of a picture, of each model those at its last dial. Another dial costs what adapters change: nothing
        of the trunk, but where they are in it (scheme P)."""
        key = picture.key, name
        known = self._encoded.pop(key, None)
        if known is None or known[0] != dial:
            known = dial, predictor.encode(picture.image)
        self._encoded[key] = known
        while len(self._encoded) > self._pictures * len(self._models):
            self._encoded.popitem(last=False)
        return known[1]


def _tunes_base(model: host.Sam3Image) -> bool:
    config = adapter_config(model)
    return config is not None and config.adapter in CONTROLS_OF_BASE
