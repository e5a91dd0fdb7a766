"""Label maps of many pixels: what their labels take in memory, and how many are opened at once."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from sam3_hyperet.data import label_values
from sam3_hyperet.data.colors import packed_colors, read_colors
from sam3_hyperet.data.label_maps import read_label_values
from sam3_hyperet.data.label_values import value_counts

SIDE = 1200
VALUES = np.arange(SIDE * SIDE, dtype=np.uint32).reshape(SIDE, SIDE) % 251
TABLE = read_colors({f"class {n}": [n, n, n] for n in range(251)})


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    root = tmp_path_factory.mktemp("maps")
    grey = Image.fromarray(VALUES.astype(np.uint8))
    grey.save(root / "grey.png", compress_level=1)
    grey.convert("RGB").save(root / "RGB.png", compress_level=1)
    Image.fromarray((VALUES * 100).astype(np.uint16)).save(root / "deep.png", compress_level=1)
    return root


CASES = {
    "grey.png": (read_label_values, VALUES, np.uint8, 4),
    "RGB.png": (read_label_values, VALUES, np.uint8, 8),
    "deep.png": (read_label_values, VALUES * 100, np.uint16, 8),
    "packed RGB.png": (packed_colors, VALUES * 0x010101, np.uint32, 10),
    "table RGB.png": (TABLE.read, VALUES, np.uint16, 13),
}


@pytest.mark.parametrize("case", CASES)
def test_labels_take_few_bytes_a_pixel(maps, case):
    read, expected, dtype, most = CASES[case]
    tracemalloc.start()
    try:
        found = read(maps / case.split()[-1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.dtype == dtype
    assert np.array_equal(found, expected)
    assert peak < most * SIDE * SIDE


@given(arrays.arrays(np.uint16, arrays.array_shapes(max_dims=2), elements=st.integers(0, 300)), st.integers(1, 9))
def test_values_are_counted_in_blocks(values, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_values, "_BLOCK", block)
        assert value_counts(values).tolist() == np.bincount(values.ravel()).tolist()


@pytest.mark.parametrize(("megapixels", "expected"), [(100, 8), (5, 3), (1, 1)])
def test_fewer_large_maps_are_open_at_once(maps, monkeypatch, megapixels, expected):
    monkeypatch.setattr(label_values, "_PIXELS", megapixels * 1_000_000)
    assert label_values._threads([maps / "none.png", maps / "grey.png"]) == expected
    assert label_values._threads([]) == 8
