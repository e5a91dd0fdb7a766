"""One detection for each object that several tiles have seen.

Two tiles both see their overlap, and an object that lies in it, whole or in part, has the same pixels there in both. So
two detections of a prompt are of one object if, within the overlap, the IoU of their masks is at least 1/2. A mask that
ends at an edge inside the image is *cut*, and unsure there: it is of one object with another if at least half of its
own pixels in the overlap (of two cut ones, of the one with fewer) lie in the other mask. Before that, a mask loses the
lesser pieces, apart from the rest, that its tile cuts and that the next tile shows whole: they are often of another
object, which would join with this one.

Detections are taken from the best score down. One that is of one object with others of other tiles joins them, and so
joins what they are in; a tile gives one detection to an object. A further one of the same tile is a copy, and is
dropped, if at least half of its mask lies in the object's; else it is an object of its own. Detections of one tile are
never compared with each other: there, SAM 3's word is final.

Of an object, the score is the best one. Where all of its detections are cut, each shows what others cannot, and the
mask is their union, the box around all of their boxes. Else those that are not cut are taken first, by score, then the
cut ones, by area; one of which half or more lies in what was taken is left out. The mask is the union of the others,
the box is that of the first.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from sam3_hyperet import masks
from sam3_hyperet.inference.tiles import Grid, Tile
from sam3_hyperet.masks import Rle

SAME = 0.5
"""Of the pixels that two masks have in an overlap, those that they share, from which both are of one object."""


@dataclass(frozen=True, eq=False)
class Detection:
    """What one tile, or all that have seen it, show of an object: pixels are those of the image.

    tile: its number in the grid. box: (4,) float64 x0, y0, x1, y1. is_cut: its mask ends at an edge inside the image.
    """

    tile: int
    score: float
    box: np.ndarray
    rle: Rle
    is_cut: bool = False

    @property
    def extent(self) -> Tile:
        """Around the mask; nothing of an empty one."""
        left, top, width, height = map(int, masks.box(self.rle))
        return Tile(left, top, left + width, top + height)


def seen(tile: int, score: float, box: np.ndarray, rle: Rle, grid: Grid, cell: tuple[float, float]) -> Detection:
    """A detection on one tile, without the pieces that are left out.

    rle: of the image. cell: pixels down and across, the mask's own resolution, as near as which to an edge it is cut.
    """
    edge = grid.tiles[tile]
    if not grid.cuts(edge, masks.box(rle), cell):
        return Detection(tile, score, box, rle)
    left, top, pixels = masks.decode_within_box(rle)
    _, labels, pieces, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8))
    boxes, areas = pieces[:, :4] + [left, top, 0, 0], pieces[:, 4]
    others = [one for one in grid.tiles if one != edge and one.shared(edge)]
    is_left_out = [
        k > 0 and grid.cuts(edge, of_piece, cell) and any(_shows(one, of_piece, cell) for one in others)
        for k, of_piece in enumerate(boxes)
    ]
    rest = pixels & ~np.isin(labels, np.flatnonzero(is_left_out))
    if not 0 < areas[is_left_out].sum() < rest.sum():
        return Detection(tile, score, box, rle, is_cut=True)
    rle = masks.placed(masks.encode_masks(rest[None])[0], left, top, grid.height, grid.width)
    x, y, width, height = around = masks.box(rle)
    return Detection(tile, score, np.array([x, y, x + width, y + height]), rle, grid.cuts(edge, around, cell))


def _shows(tile: Tile, box: Sequence[float], cell: tuple[float, float]) -> bool:
    """Whether a COCO box lies in a tile, or ends no farther than `cell` beyond it."""
    (left, top, width, height), (down, across) = box, cell
    return (
        left >= tile.left - across
        and left + width <= tile.right + across
        and top >= tile.top - down
        and top + height <= tile.bottom + down
    )


def joined(detections: Sequence[Detection], grid: Grid) -> list[Detection]:
    """The objects of one prompt, best first, ties as given."""
    ranked = sorted(detections, key=lambda one: -one.score)
    if len({one.tile for one in ranked}) < 2:
        return ranked
    same = _same(ranked, grid)
    tile_of = [one.tile for one in ranked]
    objects, object_of = dict[int, list[int]](), dict[int, int]()  # by the number of the detection that came last
    for k, one in enumerate(ranked):
        linked = sorted({object_of[other] for other in same[k] if other in object_of})
        joining = [number for number in linked if one.tile not in (tile_of[other] for other in objects[number])]
        if linked and not joining and any(_is_copy(one, [ranked[o] for o in objects[n]], grid) for n in linked):
            continue
        whole = [k]
        for number in joining:
            if {tile_of[other] for other in objects[number]}.isdisjoint(tile_of[other] for other in whole):
                whole += objects.pop(number)
        objects[k] = whole
        object_of |= dict.fromkeys(whole, k)
    found = [_drawn([ranked[other] for other in whole], grid) for whole in objects.values()]
    return sorted(found, key=lambda one: -one.score)


def _same(ranked: Sequence[Detection], grid: Grid) -> dict[int, set[int]]:
    """Which detections are of one object with each."""
    same, tiles, extents = defaultdict[int, set[int]](set), grid.tiles, [one.extent for one in ranked]
    of_tile = defaultdict[int, list[int]](list)
    for k, one in enumerate(ranked):
        of_tile[one.tile].append(k)
    for pair in itertools.combinations(sorted(of_tile), 2):
        if (overlap := tiles[pair[0]].shared(tiles[pair[1]])) is None:
            continue
        inside = masks.rectangle(overlap, grid.height, grid.width)
        sides = [[k for k in of_tile[tile] if extents[k].shared(overlap)] for tile in pair]
        parts = [[coco_mask.merge([ranked[k].rle, inside], intersect=True) for k in side] for side in sides]
        cut = [np.array([ranked[k].is_cut for k in side], bool) for side in sides]
        for i, j in np.argwhere(_are_same(parts, cut)).tolist():
            same[sides[0][i]].add(sides[1][j])
            same[sides[1][j]].add(sides[0][i])
    return same


def _are_same(parts: Sequence[list[Rle]], cut: Sequence[np.ndarray]) -> np.ndarray:
    """(N, M) bool of the parts in one overlap of N masks of a tile and M of another, some of which are cut."""
    if not parts[0] or not parts[1]:
        return np.zeros((len(parts[0]), len(parts[1])), bool)
    iou = masks.iou(parts[0], parts[1])
    areas = [np.array([masks.area(part) for part in side], dtype=np.float64) for side in parts]
    shared = iou * (areas[0][:, None] + areas[1]) / (1 + iou)
    of_cut = [np.where(of_side, area, np.inf) for area, of_side in zip(areas, cut, strict=True)]
    least = np.minimum(of_cut[0][:, None], of_cut[1])
    found: np.ndarray = (shared > 0) & ((iou >= SAME) | (shared >= SAME * least))
    return found


def _is_copy(one: Detection, of: Sequence[Detection], grid: Grid) -> bool:
    covered = masks.union([other.rle for other in of], grid.height, grid.width)
    return masks.intersection_area(one.rle, covered) >= SAME * masks.area(one.rle)


def _drawn(detections: Sequence[Detection], grid: Grid) -> Detection:
    """The object of detections of different tiles."""
    if len(detections) == 1:
        return detections[0]
    area = {id(one): masks.area(one.rle) for one in detections}
    first, *others = sorted(detections, key=lambda one: (one.is_cut, -area[id(one)] if one.is_cut else -one.score))
    taken, covered = [first], first.rle
    for one in others:
        if first.is_cut or masks.intersection_area(one.rle, covered) < SAME * area[id(one)]:
            taken.append(one)
            covered = masks.union([covered, one.rle], grid.height, grid.width)
    corners = np.stack([one.box for one in taken])
    around = np.concatenate([corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)])
    counts = covered["counts"]
    rle = {**covered, "counts": counts if isinstance(counts, str) else counts.decode("ascii")}
    score = max(one.score for one in detections)
    return Detection(first.tile, score, around if first.is_cut else first.box, rle, first.is_cut)
