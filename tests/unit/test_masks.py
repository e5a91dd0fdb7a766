"""The check in bulk of RLEs against a plain decoder, one character after another."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sam3_hyperet.masks import decode, encode_masks, invalid_rles, placed, rectangle


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
