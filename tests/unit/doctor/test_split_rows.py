"""What `doctor` reads of a data set: each split once, whatever is held out of it."""

from __future__ import annotations

import pytest

from sam3_hyperet.data import sources
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import read_split
from sam3_hyperet.doctor.splits import Splits


@pytest.mark.parametrize(("own", "expected"), [({}, ["train"]), ({"val": "val"}, ["train", "val"])])
def test_what_is_held_out_is_of_the_training_images_as_they_were_read(shop, monkeypatch, own, expected):
    read = []
    monkeypatch.setattr(sources, "read_split", lambda *args: read.append(args[1]) or read_split(*args))
    data = {"name": "shop", "format": "coco", "root": str(shop), "tune_images": 1, "validation_fraction": 0.3}
    splits = Splits(DataOptions(**data, splits={"train": "train", **own}), tune=True)
    rows = [row for split in ("train", "tune", "val") for row in splits.rows(split)]
    assert [row.check for row in rows if row.status == "ok"] == ["data: train", "data: tune", "data: val"]
    assert read == expected
    assert sum(map(len, splits.opened.values())) == 3 + 2 * len(own)
