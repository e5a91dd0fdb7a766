"""Images that are annotated with a model's answers: which names and images, what is present, and the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_tree import write_noise_tree

from sam3_hyperet.data.coco import read_coco
from sam3_hyperet.data.loading import ConceptPrompts
from sam3_hyperet.data.prompts import PromptSampler
from sam3_hyperet.data.rehearsal import RehearsedImages, from_coco, to_coco
from sam3_hyperet.errors import ConfigError, DataError
from sam3_hyperet.masks import encode_masks

NAMES = ["car", "tree", "person"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Seven images of apples and tins."""
    root = tmp_path_factory.mktemp("rehearsal") / "shop"
    categories = [{"id": 1, "name": "apple"}, {"id": 2, "name": "tin"}]
    write_noise_tree(root, categories, {"train": 7}, (64, 96), [8, 8, 40, 8, 40, 40])
    return read_coco(root / "annotations/instances_train.json", root / "train", name="shop")


def rle(top=0, height=8):
    mask = np.zeros((1, 64, 96), bool)
    mask[0, top : top + height, 10:30] = True
    return encode_masks(mask)[0]


def test_names_that_the_labels_ask_for_are_left_out_and_counted(shop):
    images = RehearsedImages(shop, ["car", "Apple", "tree_trunk", "car"], shop.categories)
    assert [category.name for category in images.categories] == ["car", "tree trunk"]
    assert images.remarks == ("1 name left out, for which shop has labels",)
    assert RehearsedImages(shop, ["car", "apple"], shop.categories[1:]).remarks == ()  # nobody asks for apples
    with pytest.raises(
        ConfigError, match=r"rehearsal\.names=\['tin'\]: training asks for all of them by the labels of"
    ):
        RehearsedImages(shop, ["tin"], shop.categories)
    with pytest.raises(ConfigError, match=r"rehearsal\.names is '', expected 1 to 200 printable characters"):
        RehearsedImages(shop, ["car", ""], shop.categories)


@given(most=st.integers(0, 9))
def test_images_are_evenly_spread_over_the_set(shop, most):
    images = RehearsedImages(shop, NAMES, shop.categories, most)
    whole = [shop.image(i).image_id for i in range(len(shop))]
    chosen = [images.image(i).image_id for i in range(len(images))]
    assert len(chosen) == min(most or 7, 7)
    assert chosen == sorted(set(chosen), key=whole.index)
    if len(chosen) > 1:
        assert (chosen[0], chosen[-1]) == (whole[0], whole[-1])
        gaps = np.diff([whole.index(one) for one in chosen])
        assert gaps.max() - gaps.min() <= 1


def test_an_image_shows_what_was_found_and_nothing_else(shop):
    images = RehearsedImages(shop, NAMES, shop.categories, 3)
    assert [images.present(i) for i in range(3)] == [frozenset()] * 3
    images.annotate({0: [(1, rle(), 0.9), (1, rle(20), 0.6)], 1: [], 2: [(3, rle(), 0.8), (2, rle(0, 0), 0.7)]})
    assert [images.present(i) for i in range(3)] == [{1}, frozenset(), {3}]
    assert [images.unlabelled(i) for i in range(3)] == [frozenset(), frozenset(), {2}]  # found with an empty mask
    assert [one.area for one in images.instances(0)] == [160, 160]
    assert images.lines(0.5) == [
        "rehearsal: of 3 names on 3 training images the base has found 3 objects, with a score from 0.5: "
        "car 2, person 1",
        "rehearsal: found on no image, so asked for as absent alone: tree",
    ]
    assert RehearsedImages(shop, NAMES, shop.categories).lines(0.3)[-1] == (
        "rehearsal: warning: found on no image, so asked for as absent alone: car, tree, person"
    )


def test_prompts_are_the_names_alone_and_their_targets_the_answers(shop):
    """No apple, though every image shows one: what the set's own labels say is asked in its own prompts."""
    images = RehearsedImages(shop, NAMES, shop.categories, 2)
    images.annotate({0: [(1, rle(), 0.9), (1, rle(20), 0.6)], 1: [(2, rle(0, 0), 0.7)]})
    dataset = ConceptPrompts(images, 64, PromptSampler(images.categories, num_positives=2, num_negatives=3))
    found = [{query.query_text: len(query.object_ids_output) for query in dataset[i].find_queries} for i in range(2)]
    assert found == [{"car": 2, "tree": 0, "person": 0}, {"car": 0, "person": 0}]


def test_the_file_is_one_of_coco_and_gives_the_answers_back(shop, tmp_path):
    images = RehearsedImages(shop, NAMES, shop.categories, 3)
    answers = {0: [(1, rle(), 0.9), (3, rle(20), 0.625)], 1: [], 2: [(2, rle(4), 0.5)]}
    file = tmp_path / "rehearsal.json"
    file.write_text(json.dumps(to_coco(images, answers)))
    assert from_coco(images, json.loads(file.read_text()), file) == answers
    opened = read_coco(file, shop.image(0).path.parent)  # by any tool that reads COCO
    assert [len(opened.instances(i)) for i in range(3)] == [2, 0, 1]
    assert opened.instances(0)[1].area == 160
    assert (opened.dropped, opened.adjusted) == ({}, {})
    for other in (RehearsedImages(shop, NAMES[:2], shop.categories, 3), RehearsedImages(shop, NAMES, shop.categories)):
        with pytest.raises(DataError, match=r"rehearsal\.json: it is of other images or names than this run's"):
            from_coco(other, json.loads(file.read_text()), file)
    with pytest.raises(DataError, match=r"rehearsal\.json: annotations\[0\]: the key 'score' is missing"):
        from_coco(images, {**to_coco(images, answers), "annotations": [{"category_id": 1, "segmentation": {}}]}, file)
