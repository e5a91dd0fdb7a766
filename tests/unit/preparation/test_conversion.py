"""Label maps with other values: every label becomes what the table says, whatever the file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.preparation.conversion import Conversion

TABLES = st.dictionaries(st.integers(0, 65_535), st.integers(0, 255), max_size=20)


def conversion(values: dict[int, int], other: int = 255) -> Conversion:
    return Conversion("given", "_ids.png", "made", "_train.png", values, other, "paths.x")


@settings(max_examples=40, deadline=None)
@given(TABLES, st.integers(0, 255), st.lists(st.integers(0, 65_535), min_size=1, max_size=30), st.booleans())
def test_every_label_is_looked_up(values, other, labels, deep):
    array = np.array([labels], np.uint16) if deep else np.array([labels], np.uint16).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "given/a").mkdir(parents=True)
        Image.fromarray(array).save(root / "given/a/1_ids.png")
        wanted = conversion(values, other)
        assert wanted.needed(root)
        assert wanted.run(root, 1) == 1
        assert not wanted.needed(root)
        made = np.asarray(Image.open(root / "made/a/1_train.png"))
    assert made.tolist() == [[values.get(label, other) for label in array[0].tolist()]]


def test_one_label_map_that_cannot_be_read_leaves_nothing(tmp_path):
    (tmp_path / "given").mkdir()
    for n in range(3):
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / f"given/{n}_ids.png")
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "given/1_ids.png")
    with pytest.raises(DataError, match=r"1_ids.png: found RGB pixels"):
        conversion({1: 2}).run(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["given"]


@pytest.mark.parametrize(("values", "other"), [({1: 256}, 255), ({1: -1}, 255), ({1: 1.5}, 255), ({}, 300)])
def test_labels_that_eight_bits_do_not_hold(values, other):
    with pytest.raises(ConfigError, match="expected labels from 0 to 255"):
        conversion(values, other)
