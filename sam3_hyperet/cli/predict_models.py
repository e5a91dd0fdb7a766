"""The model of `predict` and, where overlays show it, the base beside it; what they find on an image."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig
from PIL import Image

from sam3_hyperet import sam3_host as host
from sam3_hyperet.cli.adapted_model import dial_line, open_described
from sam3_hyperet.cli.of_run import listed
from sam3_hyperet.data.annotations import some
from sam3_hyperet.evaluation.models import at_dial
from sam3_hyperet.evaluation.protocol import MAX_DETECTIONS
from sam3_hyperet.inference.exemplars import Exemplars
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.shared_encoding import shared_encoding
from sam3_hyperet.inference.tiled_prediction import TiledPrediction, TiledPredictor
from sam3_hyperet.inference.tiles import Grid, Tiling
from sam3_hyperet.modeling.build import resolution
from sam3_hyperet.modeling.compilation import compiled_regions
from sam3_hyperet.modeling.dial import dial_of
from sam3_hyperet.modeling.sites.trunk_qv import weights_kept
from sam3_hyperet.precision import float32_products, precision_text
from sam3_hyperet.training.run_files import WEIGHTS

Entry = dict[str, Any]
"""What is found on an image, as predictions.json has it."""

_LISTED = 10  # prompts in a line
_BESIDE_LINE = (
    "{} beside the adapted model in the overlays: every prompt is asked twice, and the image encoded twice where the "
    "adapter is in its encoder (base_beside=false: the adapted model alone)"
)


@dataclass(frozen=True)
class PromptedModels:
    """The model and the base beside it, with all prompts.

    base: None where overlays show the model alone. headings: of the panels of overlays, the last is the model's own.
    max_dets: most detections of a prompt, None for all. lines: what is to be said of the models.
    """

    own: Predictor
    base: Predictor | None
    tiling: Tiling
    headings: Sequence[str]
    thresholds: Mapping[str, float]
    max_dets: int | None
    lines: Sequence[str]

    @classmethod
    def of(
        cls, config: DictConfig, values: Mapping[str, Any], adapter: str | None, prompts: Sequence[str], tiling: Tiling
    ) -> "PromptedModels":
        """Those that `adapted_model.described` describes. Raises CheckpointError for files that do not fit."""
        model = open_described(config, values, adapter)
        lines = [dial_line(model, config.dial)]
        settings = {"prompts_at_once": config.prompts_at_once, "precision": config.precision}

        def predictor(of: host.Sam3Image) -> Predictor:
            return Predictor(of, list(prompts), resolution(of), **settings)

        own, base, headings = predictor(model), None, [""]
        if beside := _beside(model, config, adapter):
            base, dial = predictor(at_dial(model, 0.0)), dial_of(model)
            headings = [beside, "adapted" if dial == 1 else f"adapted, dial {dial:g}"]
            lines.append(_BESIDE_LINE.format(beside))
        lines += [precision_text(config.precision, own.precision, own.device.type), tiling.line()]
        thresholds = {"mask_threshold": config.mask_threshold, "score_threshold": config.score_threshold}
        return cls(own, base, tiling, headings, thresholds, _max_dets(config), [line for line in lines if line])

    @contextmanager
    def running(self, sizes: Sequence[tuple[int, int]]) -> Iterator[None]:
        """Context in which images of these sizes are predicted; nothing may write to the weights meanwhile."""
        models = [self.own.model, *([self.base.model] if self.base else [])]
        with ExitStack() as stack:
            stack.enter_context(weights_kept([self.own.model]))
            if self.base:
                stack.enter_context(shared_encoding(models, self._most_tiles(sizes)))
            stack.enter_context(compiled_regions(models))
            stack.enter_context(float32_products(self.own.precision))
            yield

    def find(self, image: Image.Image, asked: Mapping[str, Exemplars | None]) -> list[Entry]:
        """What each model finds on an image for prompts, some with boxes; the model's own is the last."""
        own, *before = (self._tiled(one) for one in (self.own, self.base) if one)
        how = image, asked, self.thresholds, self.max_dets
        found = found_by(own, *how)
        return [*(found_by(one, *how) for one in before), found]

    def line(self, name: str, size: tuple[int, int], entries: Sequence[Entry]) -> str:
        """How much has been found on an image, for people."""
        tiles = "" if self.tiling.is_whole else f" in {self._grid(*size)}"
        *before, own = (_summary(one["prompts"]) for one in entries)
        return f"{name}{tiles}: {own}{''.join(f' (base: {one})' for one in before)}"

    def _tiled(self, predictor: Predictor) -> Predictor | TiledPredictor:
        return predictor if self.tiling.is_whole else TiledPredictor(predictor, self.tiling)

    def _grid(self, width: int, height: int) -> Grid:
        return self.tiling.grid(width, height, self.own.resolution)

    def _most_tiles(self, sizes: Sequence[tuple[int, int]]) -> int:
        """The most tiles of an image."""
        return 1 if self.tiling.is_whole else max((len(self._grid(*size)) for size in set(sizes)), default=1)


def found_by(
    predictor: Predictor | TiledPredictor,
    image: Image.Image,
    asked: Mapping[str, Exemplars | None],
    thresholds: Mapping[str, float],
    max_dets: int | None = None,
) -> Entry:
    """What one model finds on an image for prompts, some with boxes."""
    predictions = []
    places = {prompt: place for place, prompt in enumerate(predictor.vocabulary)}
    chosen = [places[prompt] for prompt in asked]
    found: Iterable[PromptPrediction | TiledPrediction] = ()
    if asked:
        found = predictor.predict(image, chosen, list(asked.values()))
    for prompt, prediction in zip(asked, found, strict=True):
        best = prediction.detections(image.height, image.width, max_dets, **thresholds)
        masks, scores = best.rles(len(best.scores)), best.scores.tolist()
        parts = zip(scores, best.boxes.tolist(), masks, strict=True)
        detections = [{"score": score, "box_xyxy": box, "segmentation": rle} for score, box, rle in parts]
        exemplars = asked[prompt]
        given = {} if exemplars is None else {"exemplars": _told(exemplars, image.size)}
        predictions.append({"prompt": prompt, **given, "presence": prediction.presence, "detections": detections})
    return {"width": image.width, "height": image.height, "prompts": predictions}


def _max_dets(config: DictConfig) -> int | None:
    """The most detections of a prompt; without a threshold all 200 queries would be, half of which AP never ranks."""
    if config.max_dets is None:
        return MAX_DETECTIONS if config.score_threshold == 0 else None
    return int(config.max_dets)


def _told(exemplars: Exemplars, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Exemplars as a file of them has them: boxes [x, y, width, height] in pixels of the image."""
    boxes = np.array(exemplars.boxes) * (*size, *size)
    boxes[:, :2] -= boxes[:, 2:] / 2
    return [{"box": b, "positive": p} for b, p in zip(boxes.tolist(), exemplars.positive, strict=True)]


def _summary(prompts: Sequence[Mapping[str, Any]]) -> str:
    """How many detections the prompts have; of many prompts, those that have any."""
    counts = [(one["prompt"], len(one["detections"])) for one in prompts]
    if len(counts) > _LISTED:
        counts = sorted((one for one in counts if one[1]), key=lambda one: -one[1])
    return some([f"{prompt} {count}" for prompt, count in counts], _LISTED) or "nothing"


def _beside(model: host.Sam3Image, config: DictConfig, adapter: str | None) -> str | None:
    """The heading of what stands beside the model in overlays; None where nothing does."""
    if not config.overlays or config.base_beside is False or adapter is None or dial_of(model) == 0:
        return None
    trained = any((run / WEIGHTS["best"]).is_file() for run in listed(config.run)) and "model" in config.of_run
    return "without the adapter" if trained else "base"
