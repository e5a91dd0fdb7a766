"""Objects that several tiles have seen are one, those that one tile has seen stay apart."""

from __future__ import annotations

import numpy as np
import pytest

from sam3_hyperet.inference import tile_joining
from sam3_hyperet.inference.tile_joining import Detection, joined
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.masks import decode, encode_masks

GRID = Tiling.of("2x2").grid(100, 100)  # tiles of 56, overlaps from 44 to 56


def seen(tile: int, left: int, top: int, right: int, bottom: int, score: float = 0.9) -> Detection:
    """A rectangle, as far as the tile shows it."""
    edge = GRID.tiles[tile]
    mask = np.zeros((1, 100, 100), bool)
    x0, y0, x1, y1 = max(left, edge.left), max(top, edge.top), min(right, edge.right), min(bottom, edge.bottom)
    mask[0, y0:y1, x0:x1] = True
    cut = GRID.cuts(edge, (x0, y0, x1 - x0, y1 - y0), (1, 1))
    return Detection(tile, score, np.array([x0, y0, x1, y1], float), encode_masks(mask)[0], cut)


def shapes(found: list[Detection]) -> list[tuple[int, ...]]:
    """Each mask's rectangle; it has to be one."""
    for one in found:
        extent = one.extent
        assert decode(one.rle).sum() == extent.width * extent.height
        assert decode(one.rle)[extent.top : extent.bottom, extent.left : extent.right].all()
    return [tuple(one.extent) for one in found]


def test_two_halves_are_one_whole():
    found = joined([seen(0, 10, 10, 90, 20, 0.6), seen(1, 10, 10, 90, 20, 0.8)], GRID)
    assert shapes(found) == [(10, 10, 90, 20)]
    assert found[0].score == 0.8
    assert found[0].box.tolist() == [10, 10, 90, 20]


@pytest.mark.parametrize(("left", "right"), [(40, 60), (36, 64), (30, 70), (40, 75)])
def test_what_both_tiles_cut_is_whole_however_much_of_it_lies_in_the_overlap(left, right):
    found = joined([seen(0, left, 10, right, 20), seen(1, left, 10, right, 20, 0.8)], GRID)
    assert shapes(found) == [(left, 10, right, 20)]
    assert found[0].box.tolist() == [left, 10, right, 20]


def test_what_lies_in_the_overlap_is_found_once_as_the_better_one_sees_it():
    found = joined([seen(0, 46, 10, 54, 20), seen(1, 45, 9, 54, 20, 0.95)], GRID)
    assert shapes(found) == [(45, 9, 54, 20)]
    assert found[0].box.tolist() == [45, 9, 54, 20]


def test_a_cut_copy_goes_into_the_whole_and_leaves_its_box_alone():
    whole, part = seen(0, 20, 10, 54, 20, 0.7), seen(1, 20, 10, 54, 20, 0.95)
    assert (whole.is_cut, part.is_cut) == (False, True)
    found = joined([whole, part], GRID)
    assert shapes(found) == [(20, 10, 54, 20)]
    assert found[0].box.tolist() == [20, 10, 54, 20]
    assert found[0].score == 0.95


def test_a_sliver_at_an_edge_is_of_what_it_lies_in():
    """Its IoU in the overlap is far below 1/2, but it is cut and lies inside."""
    sliver = seen(1, 44, 12, 46, 15, 0.6)
    assert shapes(joined([seen(0, 20, 10, 54, 20), sliver], GRID)) == [(20, 10, 54, 20)]
    copy = seen(1, 44, 15, 46, 18, 0.55)
    assert shapes(joined([seen(0, 20, 10, 54, 20), sliver, copy], GRID)) == [(20, 10, 54, 20)]


def test_four_quarters_are_one_in_any_order():
    quarters = [seen(tile, 10, 10, 90, 90, 0.9 - 0.1 * tile) for tile in range(4)]
    for order in ((0, 1, 2, 3), (3, 0, 2, 1)):
        assert shapes(joined([quarters[k] for k in order], GRID)) == [(10, 10, 90, 90)]
    # the middle piece comes last, and joins two that do not share an overlap
    row = Tiling.of("3x1").grid(100, 100)
    masks = np.zeros((3, 100, 100), bool)
    for mask, (start, stop) in zip(masks, row.columns, strict=True):
        mask[40:60, max(start, 5) : min(stop, 95)] = True
    pieces = [
        Detection(k, score, np.zeros(4), rle, True)
        for k, (rle, score) in enumerate(zip(encode_masks(masks), (0.9, 0.5, 0.8), strict=True))
    ]
    (whole,) = joined(pieces, row)
    assert tuple(whole.extent) == (5, 40, 95, 60)


def test_neighbours_in_the_overlap_stay_two():
    found = joined([seen(0, 20, 10, 50, 20), seen(1, 50, 10, 80, 20, 0.8), seen(0, 46, 30, 50, 40)], GRID)
    assert sorted(shapes(found)) == [(20, 10, 50, 20), (46, 30, 50, 40), (50, 10, 80, 20)]


def test_detections_of_one_tile_are_never_joined_but_a_further_copy_of_another_tile_goes():
    twice = [seen(0, 10, 10, 30, 20), seen(0, 10, 10, 30, 20, 0.8)]
    assert len(joined(twice, GRID)) == 2
    found = joined([seen(0, 46, 10, 54, 20), seen(1, 46, 10, 54, 20), seen(1, 46, 10, 54, 20, 0.5)], GRID)
    assert shapes(found) == [(46, 10, 54, 20)]
    assert joined([], GRID) == []


@pytest.mark.parametrize("tiles", ["2x2", "5x4"])
def test_scores_come_from_the_best_down(tiles):
    grid = Tiling.of(tiles).grid(200, 200)
    rng, found = np.random.default_rng(0), []
    for tile, edge in enumerate(grid.tiles):
        for _ in range(6):
            mask = np.zeros((1, 200, 200), bool)
            x, y = rng.integers(edge.left, edge.right - 4), rng.integers(edge.top, edge.bottom - 4)
            mask[0, y : min(y + 30, edge.bottom), x : min(x + 30, edge.right)] = True
            found.append(
                Detection(tile, float(rng.random()), np.zeros(4), encode_masks(mask)[0], bool(rng.random() < 0.5))
            )
    scores = [one.score for one in joined(found, grid)]
    assert scores == sorted(scores, reverse=True)
    assert max(one.score for one in found) == scores[0]
    assert len(scores) <= len(found)


def drawn(tile: int, *rectangles: tuple[int, int, int, int]) -> Detection:
    """A mask of several rectangles, as a tile shows it."""
    mask = np.zeros((1, 100, 100), bool)
    for x0, y0, x1, y1 in rectangles:
        mask[0, y0:y1, x0:x1] = True
    return tile_joining.seen(tile, 0.9, np.array([1.0, 2.0, 3.0, 4.0]), encode_masks(mask)[0], GRID, (1, 1))


def test_a_sliver_of_a_neighbour_in_a_mask_of_something_else_joins_nothing():
    """Tile 1 begins at 44, and its mask of the right object has a sliver of the left one, which tile 0 sees whole."""
    left, right = drawn(0, (20, 10, 50, 20)), drawn(1, (44, 10, 50, 20), (70, 10, 95, 20))
    assert shapes([right]) == [(70, 10, 95, 20)]
    assert (right.is_cut, right.box.tolist()) == (False, [70, 10, 95, 20])
    assert sorted(shapes(joined([left, right], GRID))) == [(20, 10, 50, 20), (70, 10, 95, 20)]


def test_pieces_stay_that_are_most_of_a_mask_or_go_on_beyond_the_other_tile_or_are_whole():
    most = drawn(1, (44, 10, 54, 30), (70, 10, 75, 20))
    beyond = drawn(1, (44, 10, 60, 20), (70, 10, 95, 30))
    whole = drawn(1, (46, 10, 50, 20), (70, 10, 95, 20))
    for one, pixels in ((most, 250), (beyond, 660), (whole, 290)):
        assert decode(one.rle).sum() == pixels
        assert one.box.tolist() == [1, 2, 3, 4]
    assert [one.is_cut for one in (most, beyond, whole)] == [True, True, False]
