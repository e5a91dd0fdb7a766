"""RLEs: encoding beside pycocotools' own, and the check in bulk beside a decoder of one character after another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from sam3_hyperet.masks import (
    decode,
    decode_within_box,
    encode_masks,
    encode_regions,
    invalid_rles,
    placed,
    rectangle,
    within_box,
)


def is_valid(counts: bytes, area: int) -> bool:
    """Decode as the format is defined: little-endian base-32 digits, the last one signed; differences from run 3 on."""
    runs: list[int] = []
    value = place = 0
    for character in counts:
        code = character - 48
        if not 0 <= code < 64 or place > 6:
            return False
        value += (code & 31) << (5 * place)
        place += 1
        if code & 32:
            continue
        if code & 16:
            value -= 1 << (5 * place)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            return False
        value = place = 0
    return place == 0 and bool(runs) and sum(runs) == area


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, int]:
    """A mask's RLE, as it is or with a few characters changed, added or cut off."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = rng.random((height, width)) < draw(st.sampled_from([0, 0.03, 0.5, 1]))
    counts = encode_masks(mask[None])[0]["counts"].encode()
    kind = draw(st.sampled_from(["whole", "changed", "longer", "cut", "random"]))
    place = draw(st.integers(0, len(counts) - 1))
    alphabet = st.integers(46, 113)  # a little more than the format's
    if kind == "changed":
        counts = counts[:place] + bytes([draw(alphabet)]) + counts[place + 1 :]
    elif kind == "longer":
        counts += bytes(draw(st.lists(alphabet, max_size=9)))
    elif kind == "cut":
        counts = counts[:place]
    elif kind == "random":
        counts = bytes(draw(st.lists(st.integers(0, 255), max_size=12)))
    return counts, height * width


@settings(max_examples=150, deadline=None)
@given(st.lists(damaged(), min_size=1, max_size=8))
def test_each_record_is_judged_as_alone(records: list[tuple[bytes, int]]) -> None:
    counts, areas = [one for one, _ in records], [area for _, area in records]
    assert invalid_rles(counts, areas).tolist() == [not is_valid(*record) for record in records]


def test_runs_that_would_add_up_only_with_a_negative_one_are_refused() -> None:
    negative = b"1Oh1"  # the runs 1, -1 and 56
    assert not is_valid(negative, 56)
    assert invalid_rles([negative, b"h1"], [56, 56]).tolist() == [True, False]
    assert invalid_rles([], []).tolist() == []
    assert invalid_rles([b"", b""], [0, 1]).tolist() == [True, True]


def as_coco_does(masks):
    rles = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in rles]


SIZES = [(7, 5), (600, 450), (1, 270_000), (270_000, 1)]  # large ones are encoded within the box of each mask


@st.composite
def batches(draw):
    """Masks of one size, each random within a box of any size and place."""
    height, width = draw(st.sampled_from(SIZES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = np.zeros((draw(st.integers(1, 3)), height, width), bool)
    for mask in found:
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
        part = mask[top:bottom, left:right]
        part[:] = rng.random(part.shape) < draw(st.sampled_from([0, 0.01, 0.5, 1]))
    return found


@settings(max_examples=40, deadline=None)
@given(batches())
def test_masks_are_encoded_as_coco_does(masks):
    assert encode_masks(masks) == as_coco_does(masks)


@pytest.mark.parametrize("size", SIZES)
def test_masks_at_the_borders_are_encoded_as_coco_does(size):
    masks = np.zeros((7, *size), bool)
    masks[1] = True
    for mask, at in zip(masks[2:6], [(0, 0), (0, -1), (-1, 0), (-1, -1)], strict=True):
        mask[at] = True
    masks[6, [0, -1], [0, -1]] = True
    assert encode_masks(masks) == as_coco_does(masks)
    assert encode_masks(masks[:, ::-1, ::-1]) == as_coco_does(masks[:, ::-1, ::-1])
    assert encode_masks(masks[:0]) == []
    for mask, rle in zip(masks, encode_masks(masks), strict=True):
        (left, top, part), of_rle = within_box(mask), decode_within_box(rle)
        assert (left, top) == of_rle[:2]
        np.testing.assert_array_equal(part, of_rle[2])


def test_masks_of_a_part_at_their_place_in_the_image():
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width = rng.integers(1, 12, 2).tolist()
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
        whole = np.zeros((1, height, width), bool)
        whole[0, top : top + h, left : left + w] = part = rng.random((h, w)) < rng.choice([0, 0.3, 0.8, 1])
        found = placed(encode_masks(part[None])[0], left, top, height, width)
        assert found == encode_masks(whole)[0]
        whole[0, top : top + h, left : left + w] = True
        found = rectangle((left, top, left + w, top + h), height, width)
        np.testing.assert_array_equal(decode(found), whole[0])


def test_regions_of_one_map_are_encoded_as_their_masks_are():
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width, side = rng.integers(1, 12, 3).tolist()
        labels = np.repeat(rng.integers(-1, int(rng.integers(1, 9)), (height, width)), side, axis=1)
        found, rles = encode_regions(labels)
        assert found == [value for value in np.unique(labels).tolist() if value >= 0]
        assert rles == encode_masks(labels == np.array(found, int)[:, None, None])
