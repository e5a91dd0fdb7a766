import base64
import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from squares import GREY

from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import encode_masks, rectangle
from sam3_hyperet.overlays.addresses import data_uri
from sam3_hyperet.overlays.colors import UNMATCHED, palette
from sam3_hyperet.report.figures.images import (
    Detection,
    Example,
    SemanticExample,
    colour_label_map,
    instance_panels,
    match,
    semantic_panels,
)


def pixels(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def square_rle(top, left, side, shape=(60, 80)):
    return rectangle((left, top, left + side, top + side), *shape)


def test_label_map_colors():
    labels = np.array([[0, 1], [255, -1]])
    result = colour_label_map(labels, ("sky", "sea"))
    np.testing.assert_array_equal(result[0], palette(2))
    assert not {tuple(color) for color in result[1].tolist()} & {tuple(color) for color in palette(2).tolist()}
    with pytest.raises(DataError, match="value 2, expected 0 to 1 or 255"):
        colour_label_map(np.full((2, 2), 2), ("sky", "sea"))
    with pytest.raises(DataError, match="expected integers"):
        colour_label_map(np.zeros((2, 2)), ("sky",))


def test_data_uri_lossless():
    picture = colour_label_map(np.arange(16).reshape(4, 4), tuple("abcdefghijklmnop"))
    address = data_uri(picture, lossless=True)
    assert address.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(pixels(address), picture)


def test_match_gives_each_truth_once():
    truth = [square_rle(0, 0, 20), square_rle(30, 40, 20)]
    assert match(truth, [square_rle(31, 40, 20), square_rle(30, 41, 20), square_rle(0, 0, 20)]) == [1, UNMATCHED, 0]
    assert match([], [square_rle(0, 0, 5)]) == [UNMATCHED]


def test_match_is_by_the_masks_as_they_are():
    rng = np.random.default_rng(0)
    masks = rng.random((9, 6, 5)) < rng.choice([0, 0.4, 0.7, 1], (9, 1, 1))
    truth, free, expected = masks[:4], dict(enumerate(masks[:4])), []
    for mask in masks[4:]:
        overlaps = {i: (mask & other).sum() / max(1, (mask | other).sum()) for i, other in free.items()}
        enough = (i for i, overlap in overlaps.items() if overlap >= 0.3)
        expected.append(max(enough, key=overlaps.__getitem__, default=UNMATCHED))
        free.pop(expected[-1], None)
    assert match(encode_masks(truth), encode_masks(masks[4:]), 0.3) == expected
    assert set(expected) - {UNMATCHED}


def test_no_mask_is_drawn_at_the_size_of_a_large_image():
    image, (height, width) = np.full((2000, 3000, 3), 120, np.uint8), (2000, 3000)
    truth = tuple(square_rle(200 * k, 280 * k, 150, (height, width)) for k in range(10))
    example = Example(image, "car", "object", truth, {"base": tuple(Detection(mask, 0.9) for mask in truth)})
    tracemalloc.start()
    drawn = [pixels(panel.address) for panel in instance_panels(example, 0.5)]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < height * width  # bytes of one mask
    changed = (np.abs(drawn[1].astype(int) - drawn[0]).max(axis=2) > 20).mean()
    assert 1 < changed * height * width / (10 * 150**2) < 2  # masks and their outlines


def test_instance_panels():
    mask = square_rle(10, 10, 30)
    detections = (Detection(mask, 0.3), Detection(mask, 0.29), Detection(mask, float("nan")))
    panels = instance_panels(Example(GREY, "car", "object", (mask,), {"base": (), "lora": detections}), 0.3)
    assert [p.title for p in panels] == ["Image", "Ground truth", "Base", "lora"]
    assert [p.note for p in panels] == ["", "", "nothing from 0.3 up", ""]
    assert max(pixels(panels[3].address).shape) == 288
    absent = instance_panels(Example(GREY, "car", "object", (), {"base": ()}), 0.3)
    assert absent[1].note == "not in this image"
    with pytest.raises(DataError, match="'car': a mask is"):
        instance_panels(Example(GREY, "car", "object", (square_rle(10, 10, 30, (59, 80)),), {}), 0.3)


def test_the_best_detection_below_the_threshold_is_dashed():
    mask, other = square_rle(10, 10, 30), square_rle(30, 50, 20)
    found = {"base": (Detection(other, 0.2), Detection(mask, 0.4)), "adapted": (Detection(mask, 0.04),)}
    image, _, below, none = instance_panels(Example(GREY, "car", "object", (mask,), found), 0.5)
    assert (below.note, none.note) == ("nothing from 0.5 up; dashed: 0.40", "nothing from 0.5 up")
    assert none.address == image.address
    changed = np.abs(pixels(below.address).astype(int) - pixels(image.address)).max(axis=2) > 60
    rows, columns = np.nonzero(changed)
    scale = 288 / 80
    assert rows.min() / scale == pytest.approx(10, abs=1.5)
    assert columns.max() / scale == pytest.approx(40, abs=1.5)
    assert not changed[round(15 * scale) : round(35 * scale), round(15 * scale) : round(35 * scale)].any()
    along = changed[round(15 * scale) : round(35 * scale), round(9 * scale) : round(11 * scale)].any(axis=1)
    assert 0.3 < along.mean() < 1.0  # there are gaps


def test_semantic_panels():
    truth, empty = np.zeros((60, 80), np.uint8), np.full((60, 80), 255, np.uint8)
    names = ("sky", "sea", "land")
    panels, legend = semantic_panels(SemanticExample(GREY, truth, {"base": empty, "lora": truth + 2}, names))
    assert [p.title for p in panels] == ["Image", "Ground truth", "Base", "lora"]
    assert [p.note for p in panels] == ["", "", "100 % unassigned", ""]
    assert [name for name, _ in legend] == ["sky", "land", ""]
    assert legend[0][1] == "#" + palette(3)[0].tobytes().hex()
    with pytest.raises(DataError, match="Base: label map is"):
        semantic_panels(SemanticExample(GREY, truth, {"base": empty[1:]}, names))
