"""Predictions on large images, tile by tile: each tile is an image of its own to the model.

A tile costs a pass of the image encoder and one of every prompt, and has queries of its own; so n tiles take n times as
long, and find n times as many objects at most. Detections are joined by `tile_joining`; maps blend in the overlaps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam3_hyperet import masks
from sam3_hyperet.choices import VISUAL
from sam3_hyperet.inference.exemplars import Exemplars, for_each
from sam3_hyperet.inference.first_look import SparedPrediction
from sam3_hyperet.inference.prediction import (
    CONFIDENT_SCORE,
    Compute,
    Encoded,
    Features,
    PromptDetections,
    PromptPrediction,
)
from sam3_hyperet.inference.predictor import Predictor, affordable_prompts
from sam3_hyperet.inference.tile_joining import Detection, joined, seen
from sam3_hyperet.inference.tiles import Grid, Tiling
from sam3_hyperet.masks import Rle

_SAID = 0.499  # of the weights of the tiles that see a pixel, from which those that say something of it are enough


@dataclass(frozen=True)
class EncodedTiles:
    """The features of each tile of an image."""

    grid: Grid
    tiles: Sequence[Encoded]


EncodedImage = Encoded | EncodedTiles
"""The features of an image, which is one tile or several."""


class TiledPredictor:
    """A `Predictor` on images that are split into tiles; an image of one tile gets the predictor's own result."""

    def __init__(self, predictor: Predictor, tiling: Tiling) -> None:
        self.predictor, self.tiling = predictor, tiling

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The prompts, by position."""
        return self.predictor.vocabulary

    def grid(self, width: int, height: int) -> Grid:
        """The tiles of an image of so many pixels. Raises DataError."""
        return self.tiling.grid(width, height, self.predictor.resolution)

    def encode(self, image: Image.Image) -> EncodedTiles:
        """Features of the tiles. Raises DataError for an image with too few pixels."""
        grid = self.grid(image.width, image.height)
        found = [self.predictor.encode(image.crop(tile) if len(grid) > 1 else image) for tile in grid.tiles]
        shared = {"vision_pos_enc": found[0]["vision_pos_enc"]}  # the same of each tile, and as large as the features
        return EncodedTiles(grid, [features | shared for features in found])

    def predict(
        self,
        image: Image.Image | EncodedTiles,
        prompts: Sequence[int] | None = None,
        exemplars: Sequence[Exemplars | None] | None = None,
    ) -> Iterator[TiledPrediction]:
        """The prediction for each prompt, as `Predictor.predict`.

        exemplars: boxes on the whole image. A tile is given those of which it has half, or as much as any tile has, cut
            at its edges. One without any is asked by the text alone; where there is none, and no positive box, it is
            asked nothing.
        """
        encoded = self.encode(image) if isinstance(image, Image.Image) else image
        asked: Sequence[int] = range(len(self.vocabulary)) if prompts is None else prompts
        return self._predict(encoded, asked, for_each(exemplars, len(asked)))

    def _predict(
        self, encoded: EncodedTiles, asked: Sequence[int], exemplars: Sequence[Exemplars | None]
    ) -> Iterator[TiledPrediction]:
        predictor = self.predictor
        if (count := len(encoded.grid)) > 1:  # the prompts of a pass are held for all tiles at once
            most = predictor.prompts_at_once or affordable_prompts(
                predictor.model, predictor.resolution, predictor.device
            )
            predictor.text  # noqa: B018  # encoded once, and not in every copy
            predictor = copy.copy(predictor)
            predictor.prompts_at_once = max(1, most // count)
        shares = [shared_out(one, encoded.grid) for one in exemplars]
        by_boxes = [self.vocabulary[k] == VISUAL and one is not None for k, one in zip(asked, exemplars, strict=True)]
        streams = [
            _of_tile(predictor, features, asked, [of_prompt[tile] for of_prompt in shares], by_boxes)
            for tile, features in enumerate(encoded.tiles)
        ]
        for of_prompt in zip(*streams, strict=True):
            yield TiledPrediction(encoded.grid, of_prompt)


def _of_tile(
    predictor: Predictor,
    features: Encoded,
    asked: Sequence[int],
    exemplars: Sequence[Exemplars | None],
    by_boxes: Sequence[bool],
) -> Iterator[PromptPrediction]:
    """The predictions for prompts on one tile; of nothing for those by boxes alone that have no positive one there."""
    is_asked = [
        not alone or (one is not None and (not one.positive or any(one.positive)))
        for one, alone in zip(exemplars, by_boxes, strict=True)
    ]
    kept = [(k, one) for k, one, here in zip(asked, exemplars, is_asked, strict=True) if here]
    found = predictor.predict(features, [k for k, _ in kept], [one for _, one in kept])
    for here in is_asked:
        yield next(found) if here else SparedPrediction(0.0, predictor.device)


def shared_out(exemplars: Exemplars | None, grid: Grid) -> list[Exemplars | None]:
    """The exemplars of each tile: boxes of which it has half, or as much as any tile has, cut at its edges; or None."""
    if exemplars is None or len(grid) == 1:
        return [exemplars] * len(grid)
    size = np.array([grid.width, grid.height] * 2)
    centre, sides = np.split(np.array(exemplars.boxes) * size, 2, axis=1)
    tiles = np.array(grid.tiles, dtype=float)[:, None]
    first, last = np.maximum(centre - sides / 2, tiles[..., :2]), np.minimum(centre + sides / 2, tiles[..., 2:])
    fraction = (last - first).clip(min=0).prod(axis=-1) / sides.prod(axis=1)  # (tiles, boxes)
    has = (fraction >= np.minimum(0.5, fraction.max(axis=0))) & (fraction > 0)
    positive = np.array(exemplars.positive or [True] * len(sides))
    found: list[Exemplars | None] = []
    for tile, here, start, stop in zip(grid.tiles, has, first, last, strict=True):
        corners = np.concatenate([start, stop], axis=1)[here] - [tile.left, tile.top] * 2
        boxes = [(x, y, right - x, bottom - y) for x, y, right, bottom in corners.tolist()]
        labels = positive[here].tolist()
        found.append(Exemplars.in_pixels(boxes, (tile.width, tile.height), labels) if boxes else None)
    return found


class TiledPrediction:
    """The prediction for one prompt on an image of one tile or several.

    presence: the largest of all tiles. features: none, for each tile has its own.
    """

    features: Features = MappingProxyType({})

    def __init__(self, grid: Grid, tiles: Sequence[PromptPrediction]) -> None:
        self.grid, self.tiles = grid, tiles
        self.presence = max(one.presence for one in tiles)

    def detections(
        self,
        height: int,
        width: int,
        max_dets: int | None = 100,
        mask_threshold: float = 0.5,
        score_threshold: float = 0.0,
    ) -> Detections:
        """As `PromptPrediction.detections`, of one tile its own; `max_dets` are kept of each tile, and of the image."""
        if len(self.tiles) == 1:  # there is nothing to join, for which every mask would be decoded and encoded
            return self.tiles[0].detections(height, width, max_dets, mask_threshold, score_threshold)
        return TiledDetections(self, height, width, max_dets, mask_threshold, score_threshold)

    def stitched(self, compute: Compute, height: int, width: int) -> Mapping[str, Tensor]:
        """Maps of the image from those of its tiles, by their weights in the overlaps.

        A pixel has a value where tiles of half of the weight or more have one, and it is their weighted mean.
        """
        grid = self.grid.scaled(width, height)
        totals, weights = dict[str, Tensor](), dict[str, Tensor]()
        for tile, prediction, ramp in zip(grid.tiles, self.tiles, grid.weights(), strict=True):
            for name, values in compute(prediction, tile.height, tile.width).items():
                if name not in totals:
                    totals[name], weights[name] = values.new_zeros(2, height, width)
                at = slice(tile.top, tile.bottom), slice(tile.left, tile.right)
                is_said = values > -math.inf
                weight = torch.from_numpy(ramp).to(values.device) * is_said
                totals[name][at] += weight * values.masked_fill(~is_said, 0)
                weights[name][at] += weight
        return {
            name: torch.where(weight >= _SAID, totals[name] / weight.clamp(min=_SAID), -math.inf)
            for name, weight in weights.items()
        }


class TiledDetections:
    """The detections of one prompt on several tiles, as `PromptDetections`; masks are kept as run lengths alone.

    Detections without a pixel are left out.
    """

    def __init__(
        self,
        prediction: TiledPrediction,
        height: int,
        width: int,
        max_dets: int | None,
        mask_threshold: float,
        score_threshold: float = 0.0,
    ) -> None:
        self.prediction, self.height, self.width = prediction, height, width
        grid, found = prediction.grid.scaled(width, height), list[Detection]()
        for number, (tile, of_tile) in enumerate(zip(grid.tiles, prediction.tiles, strict=True)):
            shown = of_tile.detections(tile.height, tile.width, max_dets, mask_threshold, score_threshold)
            boxes = shown.boxes + np.array([tile.left, tile.top] * 2)
            rles = shown.rles(len(boxes))
            for score, box, rle in zip(shown.scores.tolist(), boxes, rles, strict=True):
                mask = masks.placed(rle, tile.left, tile.top, height, width)
                if masks.area(mask):  # what has no pixel cannot be joined
                    found.append(seen(number, score, box, mask, grid, shown.cell))
        objects = joined(found, grid)
        self.confident = sum(one.score >= CONFIDENT_SCORE for one in objects)
        self._objects = objects if max_dets is None else objects[: max(max_dets, self.confident)]
        self.scores = np.array([one.score for one in self._objects])
        self.boxes = np.array([one.box for one in self._objects]).reshape(-1, 4)

    @cached_property
    def _rles(self) -> list[Rle]:
        return [one.rle for one in self._objects]

    def rles(self, count: int) -> list[Rle]:
        """The masks of the best `count` detections as COCO run lengths."""
        return self._rles[:count]

    def areas(self, count: int) -> np.ndarray:
        """(count,) float64 pixels of the best `count` detections' masks."""
        return np.array([masks.area(rle) for rle in self._rles[:count]], dtype=np.float64)


Detections = PromptDetections | TiledDetections
"""The detections of one prompt on an image of one tile or several."""
