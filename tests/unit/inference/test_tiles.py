"""Where the tiles of an image lie, and which options are refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.inference.tiles import MOST_TILES, Grid, Tiling


@pytest.mark.parametrize("size", [(160, 90), (91, 170), (6000, 4000)])
@pytest.mark.parametrize("tiles", ["1x1", "2x1", "3x2", "4x4"])
def test_tiles_cover_the_image_overlap_and_blend_to_one(size, tiles):
    grid = Tiling.of(tiles, 0.2).grid(*size)
    columns, rows = map(int, tiles.split("x"))
    assert (len(grid), str(grid)) == (columns * rows, f"{tiles} tiles")
    sides = {(tile.width, tile.height) for tile in grid.tiles}
    assert len(sides) == 1
    for spans, length in ((grid.columns, size[0]), (grid.rows, size[1])):
        assert (spans[0][0], spans[-1][1]) == (0, length)
        for (start, stop), (following, _) in itertools.pairwise(spans):
            assert (stop - following) / (stop - start) == pytest.approx(0.2, abs=0.05)
    if size[0] < 1000:
        total = np.zeros(size[::-1])
        for tile, weight in zip(grid.tiles, grid.weights(), strict=True):
            total[tile.top : tile.bottom, tile.left : tile.right] += weight
        np.testing.assert_allclose(total, 1, atol=1e-6)


def test_automatic_tiles_follow_the_resolution_up_to_a_bound():
    auto = Tiling.of("auto")
    assert [str(auto.grid(*size, 1008)) for size in ((2016, 1500), (2017, 1500), (6000, 4000), (1, 5000))] == [
        *("1x1 tiles", "2x1 tiles", "4x3 tiles", "1x3 tiles")
    ]
    assert max(tile.width for tile in auto.grid(6000, 4000, 1008).tiles) <= 2016
    assert 40 < len(auto.grid(20_000, 8_000, 128)) <= MOST_TILES


def test_a_mask_is_cut_at_edges_inside_the_image_alone():
    grid = Tiling.of("2x1").grid(100, 50)
    first, second = grid.tiles
    assert not grid.cuts(first, (0, 0, 20, 50), (2, 2))
    assert grid.cuts(first, (first.right - 21, 10, 20, 5), (2, 2))
    assert not grid.cuts(first, (first.right - 22, 10, 20, 5), (2, 2))
    assert grid.cuts(second, (second.left, 10, 20, 5), (1, 1))
    assert not grid.cuts(first, (0, 0, 0, 0), (100, 100))


def test_the_tiles_of_labels_of_another_size():
    grid = Tiling.of("3x2").grid(300, 200)
    assert grid.scaled(300, 200) is grid
    small = grid.scaled(30, 21)
    assert (small.width, small.height, len(small)) == (30, 21, 6)
    assert isinstance(small, Grid)
    assert small.columns[1][0] == round(grid.columns[1][0] / 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("2",), "tiles='2'; expected COLUMNSxROWS, such as 3x2, or auto"),
        (("0x1",), "tiles='0x1'; expected"),
        ((4,), "tiles=4; expected"),
        (("9x9",), "tiles=9x9: 81 tiles an image, whose features are held at once; expected at most 64"),
        (("2x2", 0), "tile_overlap=0, without which nothing that a seam cuts can be joined; expected a fraction"),
        (("2x2", 0.6), "tile_overlap=0.6; expected a fraction of a tile's side, above 0 and at most 0.5"),
        (("2x2", float("nan")), "tile_overlap=nan; expected"),
        (("2x2", True), "tile_overlap=True; expected"),
        (("2x2", "wide"), "tile_overlap='wide'; expected"),
    ],
)
def test_options(options, message):
    with pytest.raises(ConfigError) as error:
        Tiling.of(*options)
    assert message in str(error.value)


def test_images_with_too_few_pixels_for_their_tiles():
    with pytest.raises(DataError) as error:
        Tiling.of("2x2").grid(1, 500, name="a.png")
    assert str(error.value).startswith("a.png: 1 x 500 pixels are too few for 2x2 tiles of 16 pixels a side or more")
    assert "expected tiles=1x38 at most, or tiles=auto" in str(error.value)
    assert len(Tiling.of("1x38").grid(1, 500)) == 38
    with pytest.raises(DataError):
        Tiling.of("1x39").grid(1, 500)
