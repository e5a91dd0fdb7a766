"""COCO sets as labelling tools export them: preparing, training and evaluating see the same in each."""

from __future__ import annotations

import pytest
from coco_case_table import BOXES, CASES
from coco_cases import write_case
from thrice import verdicts

from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.options import DataOptions
from sam3_hyperet.data.sources import read_split
from sam3_hyperet.errors import DataError


@pytest.mark.parametrize("kind", [*CASES, *BOXES])
def test_a_set_means_the_same_to_preparing_training_and_evaluating(tmp_path, kind):
    case, boxes = (CASES[kind], "drop") if kind in CASES else (BOXES[kind], "instances")
    root = write_case(tmp_path / "shop", case)
    data = DataOptions("shop", "coco", str(root), {"train": "train", "val": "val"}, tune_images=0, boxes=boxes)
    found = verdicts(data)
    if case.refused:
        for said in found:
            assert isinstance(said, str), said
            assert "\n" not in said.split("; ")[0]
            with pytest.raises(DataError, match=case.refused):
                raise DataError(said)
        return
    assert found == [[case.instances, case.instances]] * 3
    images = read_split(data, "train").images
    assert (images.dropped, images.adjusted) == case.counts
    for reason in (*images.dropped, *images.adjusted):
        assert f"× {reason}" in images.summary()


def read(root):
    """All that is read of the training images, or why they are refused."""
    try:
        images = read_coco(root / "annotations/instances_train.json", root / "train")
    except DataError as error:
        return str(error)
    everything = [(images.image(i), images.instances(i), images.unlabelled(i)) for i in range(len(images))]
    return images.categories, everything, images.dropped, images.adjusted, images.rectangles


@pytest.mark.parametrize("kind", sorted(CASES.keys() - {"in Latin-1"}))  # of which only what is used is decoded
def test_a_large_file_is_read_as_a_small_one_is(tmp_path, monkeypatch, kind):
    root = write_case(tmp_path / "shop", CASES[kind])
    expected = read(root)
    monkeypatch.setattr("sam3_hyperet.data.coco_json.LARGE", 0)
    assert read(root) == expected
    assert read(root) == expected  # of the index beside it
