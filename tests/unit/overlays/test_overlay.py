"""Overlays: colours, outlines, labels that hide little, boxes, and pictures of several panels with a legend."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from squares import GREY, square

from sam3_hyperet.choices import SMALLEST_OVERLAY
from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import encode_masks
from sam3_hyperet.overlays.addresses import mask_png
from sam3_hyperet.overlays.colors import UNMATCHED, color, css, palette
from sam3_hyperet.overlays.composition import Entry, Panel, compose
from sam3_hyperet.overlays.overlay import ExemplarBox, Instance, draw_overlay, overlay
from sam3_hyperet.overlays.resizing import Region, drawn_side, enlarge


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
    np.testing.assert_allclose(result[30, 30], 0.5 * small + 0.5 * 120, atol=1)  # the image shows through
    np.testing.assert_allclose(result[50, 50], 0.5 * large + 0.5 * 120, atol=1)


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


@pytest.mark.parametrize("side", [40, 288])
def test_enlarge(side):
    assert enlarge(GREY, side).shape == (side * 3 // 4, side, 3)
    mask = enlarge(square(10, 10, 30), side)
    assert mask.dtype == bool
    assert mask.mean() == pytest.approx(900 / 4800, abs=0.02)
    labels = np.arange(4800).reshape(60, 80)
    assert set(np.unique(enlarge(labels, side, crisp=True))) <= set(range(4800))
    assert enlarge(square(7, 7, 1), 10).sum() == 1  # a mask never vanishes
    assert enlarge(GREY, 80) is GREY


def test_a_phrase_has_one_colour_whatever_else_is_asked():
    assert color(3) == tuple(palette(40)[3])
    assert css(0) == "#0072b2"
    assert len({css(number) for number in range(60)}) == 60
    with_others = draw_overlay(GREY, [Instance(square(0, 0, 9), 7), Instance(square(20, 20, 20), 3)])
    np.testing.assert_array_equal(
        with_others.pixels[30, 30], draw_overlay(GREY, [Instance(square(20, 20, 20), 3)]).pixels[30, 30]
    )


def chips(drawn, plain):
    """Boxes of the pixels that labels changed: left, top, right and bottom of each connected piece."""
    changed = (drawn.astype(int) != plain).any(axis=2).astype(np.uint8)
    count, _, stats, _ = cv2.connectedComponentsWithStats(changed, connectivity=8)
    return [tuple(stats[k, :4]) for k in range(1, count)]


def test_labels_hide_neither_each_other_nor_much_of_a_mask():
    """A crowd of masks: the labels that would hide others are left out and counted, the best of each colour first."""
    rng = np.random.default_rng(0)
    image = np.full((240, 320, 3), 120, np.uint8)
    places = [(int(y), int(x)) for y, x in zip(rng.integers(0, 215, 60), rng.integers(0, 295, 60), strict=True)]
    masks = [square(y, x, 24, (240, 320)) for y, x in places]
    bare = [Instance(mask, k % 3) for k, mask in enumerate(masks)]
    labelled = [Instance(one.mask, one.color, (f"phrase {one.color} 0.50", ".50")) for one in bare]
    plain, drawn = draw_overlay(image, bare), draw_overlay(image, labelled)
    assert plain.unlabelled == 0
    assert 0 < drawn.unlabelled < 60
    changed = (plain.pixels != drawn.pixels).any(axis=2)
    assert changed.mean() <= 0.2
    owner = np.full(changed.shape, -1)
    for k, mask in enumerate(masks):  # of equal size: the last lies on top
        owner[mask] = k
    for k in range(60):
        assert changed[owner == k].sum() <= 0.25 * (owner == k).sum()
    assert len(chips(drawn.pixels, plain.pixels)) == 60 - drawn.unlabelled


def test_a_label_without_a_place_is_shortened_before_it_is_left_out():
    image = np.full((40, 60, 3), 120, np.uint8)
    mask = square(0, 0, 40, (40, 60))
    long, short = "a phrase of many words 0.87", ".87"
    shortened = draw_overlay(image, [Instance(mask, 0, (long, short))])
    np.testing.assert_array_equal(shortened.pixels, draw_overlay(image, [Instance(mask, 0, (short,))]).pixels)
    assert (shortened.unlabelled, draw_overlay(image, [Instance(mask, 0, (long,))]).unlabelled) == (0, 1)


def test_dashes_are_an_outline_with_gaps():
    mask = square(10, 10, 40)
    solid, dashed = (draw_overlay(GREY, [Instance(mask, 0, (), dashed)]).pixels for dashed in (False, True))
    np.testing.assert_array_equal(dashed[30, 30], GREY[30, 30])  # no tint
    along = [(image[10, 14:46] == GREY[10, 14:46]).all(axis=1) for image in (solid, dashed)]
    assert not along[0].any()
    assert along[1].any()
    assert not along[1].all()


def test_exemplar_boxes_are_drawn_at_the_size_of_the_picture():
    boxes = [ExemplarBox((8, 6, 40, 30), 1), ExemplarBox((50, 40, 20, 60), 1, positive=False)]  # cut at the border
    drawn = draw_overlay(GREY, [], boxes, side=320).pixels
    assert drawn.shape == (240, 320, 3)
    np.testing.assert_array_equal(drawn[100, 32], color(1))  # the left side of the first, four times as large
    right = (drawn[164:236, 280] == color(1)).all(axis=1)
    assert right.any()
    assert not right.all()  # dashes
    np.testing.assert_array_equal(drawn[100, 100], GREY[0, 0])


def test_small_images_are_enlarged_and_large_ones_reduced_on_request():
    assert [drawn_side(*size) for size in ((64, 48), (2000, 6000))] == [SMALLEST_OVERLAY, 6000]
    assert [drawn_side(*size, most=2048) for size in ((64, 48), (1000, 700), (2000, 6000))] == [
        SMALLEST_OVERLAY,
        1000,
        2048,
    ]


def test_masks_are_written_as_black_and_white():
    mask = square(10, 20, 7)
    for one in (mask, encode_masks(mask[None])[0]):
        with Image.open(io.BytesIO(mask_png(one))) as image:
            assert (image.mode, image.size) == ("1", (80, 60))
            np.testing.assert_array_equal(np.asarray(image), mask)


def test_panels_stand_side_by_side_above_a_legend():
    legend = [Entry(0, "car 3"), Entry(1, "wheel 12"), Entry(None, "4 without a label")]
    made = compose([Panel(GREY, "base"), Panel(GREY + 50, "adapted")], legend)
    (left, top, right, bottom), (other, *_) = made.panels
    assert (right - left, bottom - top) == (80, 60)
    assert other > right
    np.testing.assert_array_equal(made.pixels[top:bottom, left:right], GREY)
    np.testing.assert_array_equal(made.pixels[top:bottom, other : other + 80], GREY + 50)
    strip = made.pixels[bottom:]
    assert all((strip == color(number)).all(axis=2).any() for number in (0, 1))
    wide = compose([Panel(GREY[:20], "base"), Panel(GREY[:20], "adapted")])
    assert wide.pixels.shape[1] == 80  # one below the other
    alone = compose([Panel(GREY)])
    np.testing.assert_array_equal(alone.pixels, GREY)
    long = compose([Panel(GREY)], [Entry(2, "a phrase that is wider than its picture " * 3)])
    assert long.pixels.shape[1] == 80


@pytest.mark.parametrize("side", [40, 80, 172, 800])
def test_masks_from_run_lengths_are_drawn_as_arrays_are(side):
    rng = np.random.default_rng(side)
    masks = [square(11, 13, 29), square(0, 40, 40), np.zeros((60, 80), bool), square(59, 79, 1)]
    masks.append(cv2.GaussianBlur(rng.random((60, 80)), (0, 0), 4) > 0.5)
    for mask, rle in zip(masks, encode_masks(np.array(masks)), strict=True):
        one, other = (Region.of(m).resized((60, 80), (side * 3 // 4, side)) for m in (mask, rle))
        assert (one.left, one.top) == (other.left, other.top)
        np.testing.assert_array_equal(one.mask, other.mask)
        expected, found = enlarge(mask, side), np.zeros((side * 3 // 4, side), bool)
        found[one.where] = one.mask
        assert (found ^ expected).sum() <= 0.05 * expected.sum() + 1


def test_what_matches_lies_on_a_smaller_duplicate_that_does_not():
    image = np.full((40, 40, 3), 120, np.uint8)
    matched, duplicate = square(4, 4, 30, (40, 40)), square(6, 6, 24, (40, 40))
    alone = draw_overlay(image, [Instance(matched, 0)]).pixels
    both = draw_overlay(image, [Instance(matched, 0), Instance(duplicate, UNMATCHED)]).pixels
    np.testing.assert_array_equal(both[18, 18], alone[18, 18])
    other = draw_overlay(image, [Instance(matched, 0), Instance(duplicate, 1)]).pixels
    assert (other[18, 18] != alone[18, 18]).any()
