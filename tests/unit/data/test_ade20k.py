"""ADE20K as its archive unpacks."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from sam3_hyperet.data.ade20k import read_ade20k, read_object_info
from sam3_hyperet.data.label_maps import IGNORED
from sam3_hyperet.errors import DataError
from sam3_hyperet.masks import decode


@pytest.mark.parametrize(("split", "classes"), [("training", [6, 20, 5, 7, 15, 11]), ("validation", [7, 6, 12])])
def test_real_pictures(shared_data, split, classes):
    images = read_ade20k(shared_data / "ADEChallengeData2016", split)
    assert len(images.categories) == 150
    assert [len(images.instances(i)) for i in range(len(images))] == classes
    for i in range(len(images)):
        path = shared_data / "ADEChallengeData2016" / "annotations" / split / f"{images.image(i).path.stem}.png"
        stored = np.asarray(Image.open(path)).astype(int)
        assert np.array_equal(images.label_map(i), np.where(stored == 0, IGNORED, stored - 1))
        assert sum(int(decode(one.rle).sum()) for one in images.instances(i)) == (stored > 0).sum()
        assert images.load_image(i).size == (images.image(i).width, images.image(i).height)


def test_names_and_synonyms_of_the_real_classes(shared_data):
    found = read_object_info(shared_data / "ADEChallengeData2016" / "objectInfo150.txt")
    assert len(found) == 150
    assert found[0] == ("wall", ())
    assert found[7] == ("bed", ())
    assert found[12] == ("person", ("individual", "someone", "somebody", "mortal", "soul"))
    assert found[149] == ("flag", ())
    categories = read_ade20k(shared_data / "ADEChallengeData2016").categories
    assert (categories[12].id, categories[12].name, len(categories[12].synonyms)) == (12, "person", 5)


def test_an_unknown_split_or_a_missing_folder_is_an_error(shared_data, tmp_path):
    with pytest.raises(DataError, match="no split 'test', expected training or validation"):
        read_ade20k(shared_data / "ADEChallengeData2016", "test")
    with pytest.raises(DataError, match=r"objectInfo150\.txt: no such file"):
        read_ade20k(tmp_path)
    shutil.copy(shared_data / "ADEChallengeData2016" / "objectInfo150.txt", tmp_path)
    with pytest.raises(DataError, match="images/validation: no such folder"):
        read_ade20k(tmp_path)


HEADER = "Idx\tRatio\tTrain\tVal\tName\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected columns Idx"),
        ("a\tb\n", "expected columns Idx"),
        (HEADER, "lists no class"),
        (HEADER + "2\t0\t0\t0\twall\n", "line 2 is .*expected class 1"),
        (HEADER + "1\t0\twall\n", "line 2 is .*expected class 1"),
        (HEADER + "1\t0\t0\t0\twall, \n", "class 1 is '', expected 1 to 200"),
    ],
)
def test_a_wrong_table_of_classes_is_an_error(tmp_path, text, message):
    path = tmp_path / "objectInfo150.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_object_info(path)
