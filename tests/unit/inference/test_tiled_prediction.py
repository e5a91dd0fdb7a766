"""Large images: one tile changes nothing, many find what is there once, and memory does not grow with the objects."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from sam3_hyperet.choices import VISUAL
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.inference.exemplars import Exemplars
from sam3_hyperet.inference.prediction import PromptPrediction
from sam3_hyperet.inference.predictor import Predictor
from sam3_hyperet.inference.tiled_prediction import TiledDetections, TiledPrediction, TiledPredictor, shared_out
from sam3_hyperet.inference.tiles import Tiling
from sam3_hyperet.masks import decode, iou

PROMPTS, SIDE = ("car", "red wheel", "sky"), 128
HALF = ((0.25, 0.5, 0.3, 0.4),)


@pytest.fixture(scope="module")
def whole(base):
    return Predictor(base, (*PROMPTS, VISUAL), SIDE)


@pytest.mark.parametrize(("tiles", "precision"), [("auto", "32-true"), ("1x1", "bf16-mixed")])
def test_one_tile_is_the_image_bit_for_bit(base, picture, tiles, precision):
    predictor = Predictor(base, (*PROMPTS, VISUAL), SIDE, precision=precision)
    boxes = [None, Exemplars(HALF), None, Exemplars(HALF)]
    height, width = picture.height, picture.width
    tiled = TiledPredictor(predictor, Tiling.of(tiles)).predict(picture, None, boxes)
    for one, other in zip(tiled, predictor.predict(picture, None, boxes), strict=True):
        found, expected = one.detections(height, width), other.detections(height, width)
        assert one.presence == other.presence
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        assert found.rles(12) == expected.rles(12)
        np.testing.assert_array_equal(found.areas(12), expected.areas(12))
        assert found.confident == expected.confident
        shown = one.stitched(lambda p, h, w: {"semantic": p.semantic_probabilities(h, w)}, height, width)
        assert torch.equal(shown["semantic"], other.semantic_probabilities(height, width))


@pytest.mark.parametrize("score_threshold", [0.0, 0.5])
def test_of_one_tile_no_mask_is_made_before_it_is_asked_for(monkeypatch, score_threshold):
    """An ordinary photograph of many: detections that meet no annotation need a box and an area alone."""
    logits = torch.randn(5, 16, 16, generator=torch.Generator().manual_seed(0))
    scores, boxes = (
        torch.tensor([0.2, 0.9, 0.6, 0.1, 0.5]),
        torch.rand(5, 4, generator=torch.Generator().manual_seed(1)),
    )
    prediction = PromptPrediction(scores, boxes, logits, logits[0], 0.9)
    grid = Tiling.of("auto").grid(40, 30, SIDE)
    with monkeypatch.context() as patch:
        patch.setattr(PromptPrediction, "rles", lambda *_: pytest.fail("masks were encoded"))
        found = TiledPrediction(grid, [prediction]).detections(30, 40, 3, 0.5, score_threshold)
    joined = TiledDetections(TiledPrediction(grid, [prediction]), 30, 40, 3, 0.5, score_threshold)
    count = len(found.scores)
    assert count == (3 if score_threshold == 0 else 2)
    assert found.confident == joined.confident == 2
    np.testing.assert_array_equal(found.scores, joined.scores)
    np.testing.assert_array_equal(found.boxes, joined.boxes)
    assert found.rles(count) == joined.rles(count)
    np.testing.assert_array_equal(found.areas(count), joined.areas(count))


def test_each_tile_is_an_image_of_its_own(whole, picture):
    tiled = TiledPredictor(whole, Tiling.of("2x1"))
    grid = tiled.grid(*picture.size)
    alone = [list(whole.predict(picture.crop(tile), [2, 0])) for tile in grid.tiles]
    for k, found in enumerate(tiled.predict(tiled.encode(picture), [2, 0])):
        for of_tile, expected in zip(found.tiles, alone, strict=True):
            torch.testing.assert_close(of_tile.scores, expected[k].scores, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(of_tile.boxes, expected[k].boxes, atol=1e-5, rtol=1e-5)
        assert found.presence == max(one.presence for one in found.tiles)
        detections = found.detections(picture.height, picture.width)
        assert 1 <= len(detections.scores) <= 24
        assert (np.diff(detections.scores) <= 0).all()
        assert len(found.detections(picture.height, picture.width, 1).scores) == 1
        assert {tuple(rle["size"]) for rle in detections.rles(99)} == {(picture.height, picture.width)}


def test_images_that_are_too_small_and_boxes_of_other_prompts(whole):
    tiled = TiledPredictor(whole, Tiling.of("2x1"))
    with pytest.raises(DataError, match="expected tiles=1x11 at most"):
        tiled.encode(Image.new("RGB", (1, 150)))
    with pytest.raises(ConfigError, match="1 exemplars for 4 prompts"):
        tiled.predict(Image.new("RGB", (100, 100)), None, [None])
    (found,) = TiledPredictor(whole, Tiling.of("1x3")).predict(Image.new("RGB", (1, 150)), [0])
    assert found.detections(150, 1).boxes.shape[1] == 4


def test_boxes_go_to_the_tiles_they_lie_in(whole, picture):
    grid = Tiling.of("2x1").grid(100, 50)  # tiles of 56, the overlap from 44 to 56
    left, both, right = Exemplars.in_pixels([(5, 10, 20, 10), (45, 10, 10, 10), (60, 5, 30, 40)], (100, 50)).boxes
    one, other = shared_out(Exemplars((left, both, right), (True, False, True)), grid)
    assert one == Exemplars.in_pixels([(5, 10, 20, 10), (45, 10, 10, 10)], (56, 50), (True, False))
    assert other == Exemplars.in_pixels([(1, 10, 10, 10), (16, 5, 30, 40)], (56, 50), (False, True))
    assert shared_out(Exemplars((left,)), grid)[1] is None
    (cut, same) = shared_out(Exemplars.in_pixels([(0, 0, 100, 50)], (100, 50)), grid)  # no tile has more than another
    assert cut == same == Exemplars.in_pixels([(0, 0, 56, 50)], (56, 50), (True,))

    asked = [VISUAL, "car"]
    boxes = [Exemplars(HALF)] * 2
    tiled = TiledPredictor(whole, Tiling.of("2x1"))
    by_boxes, named = tiled.predict(picture, [whole.vocabulary.index(text) for text in asked], boxes)
    assert [len(one.query_scores) for one in by_boxes.tiles] == [12, 0]  # nothing was asked where no box is
    tile = tiled.grid(*picture.size).tiles[1]
    (by_text,) = whole.predict(picture.crop(tile), [0])
    torch.testing.assert_close(named.tiles[1].scores, by_text.scores, atol=1e-5, rtol=1e-5)


class Seeing:
    """Finds every shape brighter than its ground, one query each, cut where the image ends; of low resolution."""

    vocabulary, resolution, prompts_at_once, device = ("shape",), SIDE, 1, torch.device("cpu")
    model, text = SimpleNamespace(), None

    def encode(self, image: Image.Image) -> dict[str, object]:
        return {"image": np.asarray(image.convert("L")), "vision_pos_enc": None}

    def predict(self, encoded, prompts, exemplars):
        pixels = encoded["image"]
        height, width = pixels.shape
        count, labels = cv2.connectedComponents((pixels > 128).astype(np.uint8))
        found = [(labels == k).astype(np.float32) for k in range(1, count)]
        small = [cv2.resize(one, (64, 64), interpolation=cv2.INTER_AREA) for one in found]
        logits = torch.tensor(np.array(small).reshape(-1, 64, 64)) * 20 - 10
        corners = [(np.where(one)[1].min(), np.where(one)[0].min()) for one in found]
        boxes = torch.tensor([[x / width, y / height, 1, 1] for x, y in corners]).reshape(-1, 4)
        scores = torch.linspace(0.95, 0.6, len(found))
        yield PromptPrediction(scores, boxes, logits, torch.zeros(64, 64), 0.9 if len(found) else 0.1)


def test_three_hundred_objects_are_found_and_none_twice():
    """More than SAM 3 has queries, at every place about the seams; each tile alone sees less than a quarter of them."""
    columns, rows, cell = 20, 15, 20
    rng, picture = np.random.default_rng(3), np.zeros((rows * cell, columns * cell), np.uint8)
    truth = np.zeros((columns * rows, *picture.shape), np.uint8)
    for k, mask in enumerate(truth):
        x, y = (k % columns + 0.5) * cell, (k // columns + 0.5) * cell
        axes = rng.integers(4, 9, 2)
        cv2.ellipse(mask, (int(x), int(y)), tuple(map(int, axes)), float(rng.integers(180)), 0, 360, 1, -1)
        picture[mask > 0] = 255
    image = Image.fromarray(picture).convert("RGB")
    (found,) = TiledPredictor(Seeing(), Tiling.of("4x3")).predict(image)
    assert sum(len(one.boxes) for one in found.tiles) > 380
    detections = found.detections(*picture.shape, None, 0.5, 0.5)
    assert len(detections.scores) == 300
    overlaps = iou(detections.rles(300), [_encoded(mask) for mask in truth])
    assert (overlaps.max(axis=0) > 0.75).all()
    assert ((overlaps > 0.5).sum(axis=0) == 1).all()
    assert found.presence == 0.9


def _encoded(mask: np.ndarray) -> dict[str, object]:
    from sam3_hyperet.masks import encode_masks

    return encode_masks(mask[None].astype(bool))[0]


def test_maps_blend_and_a_pixel_has_a_value_where_half_of_the_weight_has_one():
    grid = Tiling.of("2x1").grid(100, 10)

    def blended(left, right):
        values = iter((left, right))
        one = SimpleNamespace(presence=1.0)

        def compute(prediction, height, width):
            value = next(values)
            return {} if value is None else {"v": torch.full((height, width), value)}

        return TiledPrediction(grid, [one, one]).stitched(compute, 10, 100)

    found = blended(0.2, 0.6)["v"][5]
    assert found[:44].tolist() == pytest.approx([0.2] * 44)
    assert found[56:].tolist() == pytest.approx([0.6] * 44)
    assert (found[44:56].diff() > 0).all()
    assert float(found[49] + found[50]) == pytest.approx(0.8, abs=1e-5)
    one = blended(0.5, -torch.inf)["v"][5]
    assert (one[:50] == 0.5).all()
    assert (one[50:] == -torch.inf).all()
    assert (blended(0.5, None)["v"][5, :50] == 0.5).all()
    assert blended(None, None) == {}


def test_masks_become_run_lengths_part_by_part(monkeypatch, whole, picture):
    (prediction, *_) = whole.predict(picture)
    expected = prediction.detections(picture.height, picture.width).masks
    monkeypatch.setattr("sam3_hyperet.inference.prediction.BYTES_AT_ONCE", 8 * picture.height * picture.width)
    held = []
    plain = PromptPrediction.masks
    monkeypatch.setattr(PromptPrediction, "masks", lambda self, *of: held.append(len(self.boxes)) or plain(self, *of))
    detections = prediction.detections(picture.height, picture.width)
    first = detections.rles(3)
    assert detections.rles(12)[:3] == first
    assert max(held) == 2
    np.testing.assert_array_equal(np.stack([decode(rle) for rle in detections.rles(12)]), expected)
