"""A large picture of drawn scenes on tiles, with the packaged bases: what a tile finds is found, and no more often."""

from __future__ import annotations

import pytest

from benchmarks import tiles
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.modeling.build import build_model
from sam3_hyperet.scenes.concepts import THINGS


@pytest.mark.parametrize("base", ["tiny", "tiny_levels"])
def test_joining_loses_and_doubles_nothing_that_a_tile_has_found(base):
    """Neighbours on these scenes have slivers in each other's masks, by which objects were once joined."""
    model, picture = build_model(base), tiles.mosaic(4, 4, THINGS, first=65)
    found = tiles.counted(
        picture, tiles.scene_by_scene(model, picture), tiles.on_tiles(model, picture, Tiling.of("4x4", 0.1))
    )
    assert (found["lost by joining"], found["doubled by joining"]) == (0, 0)
    assert found["drawn"] == 37
    assert found["found on both"] >= 0.8 * found["found alone"] > 15
    assert found["results"] > 45


def test_the_figures_see_what_is_lost_and_what_is_doubled():
    picture = tiles.mosaic(1, 2, ("car", "tree", "house", "person"))
    drawn = picture.drawn
    assert picture.picture.size == (256, 128)
    (prompt, objects) = max(drawn.items(), key=lambda item: len(item[1]))
    none = {name: [] for name in drawn}
    everything = {name: [list(masks), list(masks)] for name, masks in drawn.items()}
    found = tiles.counted(picture, drawn, everything)
    assert found["drawn"] == found["found alone"] == found["found on both"] == found["results"] > 0
    assert (found["lost by joining"], found["doubled by joining"], found["doubled by the model"]) == (0, 0, 0)
    lost = tiles.counted(picture, none, everything | {prompt: [[], objects]})
    assert (lost["lost by joining"], lost["found on both"]) == (len(objects), 0)
    doubled = tiles.counted(picture, drawn | {prompt: [*objects] * 2}, everything | {prompt: [objects * 2, objects]})
    assert (doubled["doubled by joining"], doubled["doubled by the model"]) == (2 * len(objects), len(objects))
