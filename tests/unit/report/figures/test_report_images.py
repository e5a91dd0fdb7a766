import base64
import io

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.errors import DataError
from sam3_hyperet.report.figures.images import (
    UNMATCHED,
    Detection,
    Example,
    SemanticExample,
    colour_label_map,
    data_uri,
    enlarge,
    instance_panels,
    match,
    overlay,
    palette,
    semantic_panels,
)

GREY = np.full((60, 80, 3), 120, np.uint8)


def square(top, left, side, shape=(60, 80)):
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def pixels(address):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGB"))


def test_palette_is_distinct_and_stable():
    colors = palette(200)
    assert colors.shape == (200, 3)
    assert colors.dtype == np.uint8
    assert len(np.unique(palette(60), axis=0)) == 60
    np.testing.assert_array_equal(palette(5), colors[:5])
    assert palette(0).shape == (0, 3)


def test_overlay_colors_the_masks_and_nothing_else():
    one, two = square(10, 10, 20), square(30, 50, 20)
    result = overlay(GREY, [one, two])
    for number, (y, x) in enumerate(((20, 20), (40, 60))):
        np.testing.assert_allclose(result[y, x], 0.5 * 120 + 0.5 * palette(2)[number], atol=1)
    np.testing.assert_allclose(result[10, 20], palette(1)[0], atol=50)  # the outline is all but opaque
    np.testing.assert_array_equal(result[0], GREY[0])
    assert (GREY == 120).all()


def test_overlay_keeps_small_masks_on_top():
    result = overlay(GREY, [square(24, 24, 12), square(5, 5, 50)])
    small, large = palette(2).astype(float)
    np.testing.assert_allclose(result[30, 30], 0.5 * small + 0.5 * (0.5 * large + 0.5 * 120), atol=1)


def test_overlay_writes_labels_legibly():
    mask = square(5, 5, 50)
    plain, labelled = overlay(GREY, [mask]), overlay(GREY, [mask], [".87"])
    changed = (plain != labelled).any(axis=2)
    assert 60 < changed.sum() < mask.sum() / 2
    brightness = labelled[changed].astype(int).sum(axis=1)
    assert brightness.max() - brightness.min() > 300  # text against its chip
    np.testing.assert_array_equal(overlay(GREY, [mask], [""]), plain)


def test_label_of_a_tiny_mask_stands_beside_it():
    mask = square(30, 30, 5)
    np.testing.assert_array_equal(overlay(GREY, [mask], [".87"])[mask], overlay(GREY, [mask])[mask])


def test_overlay_of_nothing():
    np.testing.assert_array_equal(overlay(GREY, []), GREY)
    np.testing.assert_array_equal(overlay(GREY, [np.zeros((60, 80), bool)], ["x"]), GREY)
    assert overlay(np.zeros((3, 2, 3), np.uint8), [np.ones((3, 2), bool)], ["0.99"]).shape == (3, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((GREY[..., 0], []), DataError, r"expected uint8 \(height, width, 3\)"),
        ((GREY / 255, []), DataError, "float64"),
        ((GREY, [np.ones((60, 79), bool)]), DataError, "mask 0 is"),
        ((GREY, [square(0, 0, 2)], ["a", "b"]), DataError, "2 labels for 1 masks"),
    ],
)
def test_overlay_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        overlay(*arguments)


def test_label_map_colors():
    labels = np.array([[0, 1], [255, -1]])
    result = colour_label_map(labels, ("sky", "sea"))
    np.testing.assert_array_equal(result[0], palette(2))
    assert not {tuple(color) for color in result[1].tolist()} & {tuple(color) for color in palette(2).tolist()}
    with pytest.raises(DataError, match="value 2, expected 0 to 1 or 255"):
        colour_label_map(np.full((2, 2), 2), ("sky", "sea"))
    with pytest.raises(DataError, match="expected integers"):
        colour_label_map(np.zeros((2, 2)), ("sky",))


@pytest.mark.parametrize("side", [40, 288])
def test_enlarge(side):
    assert enlarge(GREY, side).shape == (side * 3 // 4, side, 3)
    mask = enlarge(square(10, 10, 30), side)
    assert mask.dtype == bool
    assert mask.mean() == pytest.approx(900 / 4800, abs=0.02)
    labels = np.arange(4800).reshape(60, 80)
    assert set(np.unique(enlarge(labels, side, crisp=True))) <= set(range(4800))


def test_data_uri_lossless():
    picture = colour_label_map(np.arange(16).reshape(4, 4), tuple("abcdefghijklmnop"))
    address = data_uri(picture, lossless=True)
    assert address.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(pixels(address), picture)


def test_match_gives_each_truth_once():
    truth = [square(0, 0, 20), square(30, 40, 20)]
    assert match(truth, [square(31, 40, 20), square(30, 41, 20), square(0, 0, 20)]) == [1, UNMATCHED, 0]
    assert match([], [square(0, 0, 5)]) == [UNMATCHED]


def test_instance_panels():
    mask = square(10, 10, 30)
    detections = (Detection(mask, 0.3), Detection(mask, 0.29), Detection(mask, float("nan")))
    panels = instance_panels(Example(GREY, "car", "object", (mask,), (), detections), 0.3)
    assert [p.title for p in panels] == ["Image", "Ground truth", "Base", "Adapted"]
    assert [p.note for p in panels] == ["", "", "nothing above 0.3", ""]
    assert max(pixels(panels[3].address).shape) == 288
    absent = instance_panels(Example(GREY, "car", "object", (), (), ()), 0.3)
    assert absent[1].note == "not in this image"
    with pytest.raises(DataError, match="'car': a mask is"):
        instance_panels(Example(GREY, "car", "object", (mask[1:],), (), ()), 0.3)


def test_semantic_panels():
    truth, empty = np.zeros((60, 80), np.uint8), np.full((60, 80), 255, np.uint8)
    names = ("sky", "sea", "land")
    panels, legend = semantic_panels(SemanticExample(GREY, truth, empty, truth + 2, names))
    assert [p.note for p in panels] == ["", "", "100 % unassigned", ""]
    assert [name for name, _ in legend] == ["sky", "land", ""]
    assert legend[0][1] == "#" + palette(3)[0].tobytes().hex()
    with pytest.raises(DataError, match="Base: label map is"):
        semantic_panels(SemanticExample(GREY, truth, empty[1:], truth, names))
