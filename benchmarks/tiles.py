"""Tiles beside ground truth and scene by scene, on one picture of many drawn scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import timing
from sam3_hyperet import masks
from sam3_hyperet import sam3_host as host
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.tiled_prediction import TiledPrediction, TiledPredictor
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.masks import Rle
from sam3_hyperet.modeling.build import build_model, resolution
from sam3_hyperet.scenes.concepts import HELD_OUT, PARTS, THINGS
from sam3_hyperet.scenes.dataset import scene

PROMPTS = (*THINGS, *(part for part in PARTS if part not in HELD_OUT))
"""The things and the parts that `tiny_levels` knows."""
_SEED, _SPLIT = 2, "val"


@dataclass(frozen=True)
class Mosaic:
    """Drawn scenes side by side, `columns` to a row, and what is drawn by prompt, as masks of the whole picture."""

    scenes: Sequence[np.ndarray]
    columns: int
    drawn: Mapping[str, Sequence[Rle]]

    @property
    def picture(self) -> Image.Image:
        rows = [
            np.concatenate(self.scenes[k : k + self.columns], axis=1) for k in range(0, len(self.scenes), self.columns)
        ]
        return Image.fromarray(np.concatenate(rows))

    def place(self, k: int, rle: Rle) -> Rle:
        """A mask of scene `k` as one of the picture."""
        (row, column), side = divmod(k, self.columns), len(self.scenes[0])
        return masks.placed(
            rle, column * side, row * side, len(self.scenes) // self.columns * side, self.columns * side
        )


def mosaic(rows: int, columns: int, prompts: Sequence[str] = PROMPTS, side: int = 128, first: int = 1) -> Mosaic:
    """Held-out scenes from number `first` on, of so many pixels a side."""
    drawings = [scene(_SEED, _SPLIT, first + k, side) for k in range(rows * columns)]
    empty = Mosaic([image for image, _ in drawings], columns, {})
    drawn: dict[str, list[Rle]] = {prompt: [] for prompt in prompts}
    for k, (_, instances) in enumerate(drawings):
        for one in instances:
            if one.concept in drawn:
                drawn[one.concept].append(empty.place(k, masks.encode_masks(one.mask[None])[0]))
    return Mosaic(empty.scenes, columns, drawn)


def run(scenes: int = 8, tiles: str = "8x8", threads: int = 1) -> dict[str, Any]:
    """Things and parts found on a picture of `scenes` × `scenes` drawn ones, for both packaged bases; prints a table.

    With 8x8 tiles and an overlap of .1, a tile shows a scene whole, and strips of its neighbours; with others, seams
    cut scenes anywhere, and a tile shows several at another scale, which the tiny models were never shown.

    Returns the figures of `counted` by base and overlap.
    """
    found = {}
    with timing.threads(threads):
        for base, prompts in (("tiny", THINGS), ("tiny_levels", PROMPTS)):
            model, picture = build_model(base), mosaic(scenes, scenes, prompts)
            alone = scene_by_scene(model, picture)
            for overlap in (0.1, 0.2, 0.3):
                tiling = Tiling.of(tiles, overlap)
                found[f"{base}, {overlap}"] = counted(picture, alone, on_tiles(model, picture, tiling))
    (row, *_) = found.values()
    timing.print_table(
        f"{scenes * scenes} scenes on one picture, {tiles} tiles",
        ["base, overlap", *row],
        [[name, *map(str, one.values())] for name, one in found.items()],
    )
    return found


def scene_by_scene(model: host.Sam3Image, picture: Mosaic) -> dict[str, list[Rle]]:
    """What is found on each scene alone, by prompt, as masks of the picture."""
    predictor = Predictor(model, list(picture.drawn), resolution(model))
    found: dict[str, list[Rle]] = {prompt: [] for prompt in picture.drawn}
    for k, pixels in enumerate(picture.scenes):
        for prompt, one in zip(found, predictor.predict(Image.fromarray(pixels)), strict=True):
            shown = one.detections(*pixels.shape[:2], None, score_threshold=0.5)
            found[prompt] += [picture.place(k, rle) for rle in shown.rles(len(shown.scores))]
    return found


def on_tiles(model: host.Sam3Image, picture: Mosaic, tiling: Tiling) -> dict[str, list[list[Rle]]]:
    """What is found by tiles, by prompt: first the results, then what each tile found."""
    image = picture.picture
    predictor = TiledPredictor(Predictor(model, list(picture.drawn), resolution(model)), tiling)
    return {prompt: _results(one, image) for prompt, one in zip(picture.drawn, predictor.predict(image), strict=True)}


def _results(prediction: TiledPrediction, image: Image.Image) -> list[list[Rle]]:
    joined = prediction.detections(image.height, image.width, None, score_threshold=0.5)
    found = [joined.rles(len(joined.scores))]
    for tile, of_tile in zip(prediction.grid.tiles, prediction.tiles, strict=True):
        shown = of_tile.detections(tile.height, tile.width, None, score_threshold=0.5)
        rles = shown.rles(len(shown.scores))
        found.append([masks.placed(rle, tile.left, tile.top, image.height, image.width) for rle in rles])
    return found


def counted(
    picture: Mosaic, alone: Mapping[str, Sequence[Rle]], tiled: Mapping[str, Sequence[Sequence[Rle]]]
) -> dict[str, int]:
    """Counts over all prompts; masks are alike from an IoU of 1/2 on, and what is drawn is found where one is alike.

    Returns:
        `drawn`; `found alone` on its own scene, `found on both`, `found by tiles`; `results`;
        `lost by joining`: drawn, and found by a tile, but not in the results;
        `doubled by joining`: results with more results alike than any one tile has;
        `doubled by the model`: drawn, and found alone more than once on its own scene.
    """
    total = dict.fromkeys(_COUNTS, 0)
    for prompt, drawn in picture.drawn.items():
        results, *of_tiles = tiled[prompt]
        own, joined = _alike(drawn, alone[prompt]), _alike(drawn, results)
        by_tile = np.max([_alike(drawn, one) for one in of_tiles], axis=0)
        most = np.max([_alike(results, one) for one in of_tiles], axis=0)
        counts = (
            len(drawn),
            (own > 0).sum(),
            ((own > 0) & (joined > 0)).sum(),
            (joined > 0).sum(),
            len(results),
            ((by_tile > 0) & (joined == 0)).sum(),
            (_alike(results, results) > np.maximum(most, 1)).sum(),
            (own > 1).sum(),
        )
        total = {name: total[name] + int(count) for name, count in zip(total, counts, strict=True)}
    return total


_COUNTS = (
    "drawn",
    "found alone",
    "found on both",
    "found by tiles",
    "results",
    "lost by joining",
    "doubled by joining",
    "doubled by the model",
)


def _alike(these: Sequence[Rle], others: Sequence[Rle]) -> np.ndarray:
    """(N,) how many of the others each is alike."""
    count: np.ndarray = (masks.iou(these, others) >= 0.5).sum(axis=1)
    return count
