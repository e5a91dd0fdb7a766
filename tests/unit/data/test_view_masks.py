"""Masks at the model's size: those of OpenCV on the whole view, to the bit, wherever a mask lies."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sam3_hyperet.data import view_masks
from sam3_hyperet.data.transforms import View, whole
from sam3_hyperet.data.view_masks import masks_in_view
from sam3_hyperet.masks import encode_masks


def by_opencv(mask, resolution, view):
    """The mask, its box and its pixels, of the whole view."""
    shown = np.ascontiguousarray(view.of(mask.astype(np.uint8)).T)
    how = cv2.INTER_AREA if resolution <= min(shown.shape) else cv2.INTER_LINEAR
    resized = cv2.resize(shown * np.uint8(255), (resolution, resolution), interpolation=how)
    y, x, height, width = cv2.boundingRect(shown)
    box = np.array([x + width / 2, y + height / 2, width, height]) / ([view.width, view.height] * 2)
    return torch.from_numpy(resized.T >= 128), torch.from_numpy(box).float(), np.count_nonzero(shown)


def assert_as_opencv(masks, resolution, view):
    found = masks_in_view(encode_masks(masks), resolution, view)
    everything = torch.zeros((resolution, resolution), dtype=torch.bool)
    for n, mask in enumerate(masks):
        expected, box, pixels = by_opencv(mask, resolution, view)
        everything |= expected
        assert torch.equal(found.union([n]), expected)
        assert torch.equal(found.boxes[n], box)
        assert (found.pixels[n], found.areas[n]) == (pixels, int(expected.sum()))
    assert torch.equal(found.union(range(len(masks))), everything)


def drawn(height, width, rng):
    """A rectangle, a polygon, loose pixels and nothing, each anywhere, also at the border."""
    masks = np.zeros((4, height, width), np.uint8)
    centre, reach = rng.random(2) * (width, height), rng.random() ** 2 * max(height, width)
    corners = (centre + (rng.random((5, 2)) - 0.5) * reach).round().astype(int)
    (x, y), (right, bottom) = np.abs(corners[:2].min(axis=0)), np.abs(corners[:2].max(axis=0)) + 1
    masks[0, y:bottom, x:right] = 1
    cv2.fillPoly(masks[1], [corners], 1)
    masks[2] = (rng.random((height, width)) < 0.3) & masks[:2].any(axis=0)
    return masks.astype(bool)


@st.composite
def views(draw):
    """The size of an image, and a view of it."""
    height, width = draw(st.integers(1, 160)), draw(st.integers(1, 160))
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    down, right = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
    shown = draw(st.sampled_from([View(top, left, down, right), whole(height, width)]))
    return height, width, View(shown.top, shown.left, shown.height, shown.width, draw(st.booleans()))


@given(views(), st.sampled_from([1, 7, 8, 16, 30]), st.integers(0, 2**32))
def test_masks_are_opencvs(shown, resolution, seed):
    height, width, view = shown
    assert_as_opencv(drawn(height, width, np.random.default_rng(seed)), resolution, view)


@given(st.integers(1, 20), st.integers(1, 20), st.booleans(), st.integers(0, 2**32))
def test_also_where_a_pixel_is_a_whole_number_of_the_images(down, right, flip, seed):
    height, width = 8 * down, 8 * right
    masks = drawn(height, width, np.random.default_rng(seed))
    assert_as_opencv(masks, 8, View(0, 0, height, width, flip))


@pytest.mark.parametrize("size", [(1008, 1009), (1013, 1300), (1511, 2016), (1080, 1920), (1200, 1000)])
def test_also_at_the_size_of_sam3(size):
    """Where OpenCV leaves out slivers of a thousandth of a pixel."""
    rng = np.random.default_rng(size)
    for flip in (False, True):
        assert_as_opencv(drawn(*size, rng)[:3], 1008, View(0, 0, *size, flip))


def test_a_small_mask_of_a_large_image_is_resized_within_its_box(monkeypatch):
    masks = np.zeros((3, 1500, 2003), bool)
    masks[0, 700:712, 30:47] = masks[1, :9, -5:] = True
    cv2.circle(view := masks[2].view(np.uint8), (1000, 900), 30, 1, -1)
    assert view.any()
    expected = [by_opencv(mask, 1008, whole(1500, 2003))[0] for mask in masks]
    monkeypatch.setattr(view_masks, "_of_the_whole", lambda *args: pytest.fail("resized the whole view"))
    found = masks_in_view(encode_masks(masks), 1008, whole(1500, 2003))
    assert all(torch.equal(found.union([n]), one) for n, one in enumerate(expected))
    assert all(part.size < 5000 for _, _, part in found.windows)
